//! Chooses the runtime of a run: the one that the user names, else the first that answers.

use std::path::Path;

use clap::ValueEnum;

use crate::cli::doctor;
use crate::cli::error::CommandError;
use crate::config::{self, Config, RuntimeMode};
use crate::server::backends;

/// What may run the instances, in the order in which they are asked. An image that the user has built or pulled is in
/// Docker or Podman; containerd has its images apart from theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeChoice {
    /// Docker
    Docker,
    /// Podman
    Podman,
    /// containerd, which restores instances; needs root
    Containerd,
}

/// A runtime that answers, and the configuration for it.
pub(super) struct ChosenRuntime {
    /// Its name for people.
    pub(super) title: &'static str,
    /// The name of its folder.
    pub(super) name: &'static str,
    /// Whether templates need a way out, else they do not start there.
    pub(super) needs_egress: bool,
    pub(super) config: Config,
}

impl RuntimeChoice {
    fn mode(self) -> RuntimeMode {
        match self {
            Self::Docker => RuntimeMode::Docker,
            Self::Podman => RuntimeMode::Podman,
            Self::Containerd => RuntimeMode::Containerd,
        }
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Docker => ("Docker", "docker"),
            Self::Podman => ("Podman", "podman"),
            Self::Containerd => ("containerd", "containerd"),
        }
    }
}

/// Returns the runtime of a run, and the configuration for the templates in `text`.
///
/// # Errors
/// No runtime answers, or not the one that was named; or the configuration has errors.
pub(super) async fn choose(
    named: Option<RuntimeChoice>,
    text: &str,
    own_program: &Path,
) -> Result<ChosenRuntime, CommandError> {
    let mut refusals = Vec::new();
    for choice in named.map_or(RuntimeChoice::value_variants().to_vec(), |one| vec![one]) {
        let (title, name) = choice.names();
        let config = config::read_for_demo(text, choice.mode(), own_program)?;
        match needs_egress(choice, &config).await {
            Ok(needs_egress) => return Ok(ChosenRuntime { title, name, needs_egress, config }),
            Err(why) => refusals.push(why),
        }
    }
    Err(match named {
        Some(_) => CommandError::NoRuntime(refusals.concat()),
        None => CommandError::NothingInstalled(refusals.join("\n- ")),
    })
}

/// Asks a runtime whether it works. Returns whether templates need a way out there.
///
/// # Errors
/// It does not answer; the text says what to do.
async fn needs_egress(choice: RuntimeChoice, config: &Config) -> Result<bool, String> {
    if choice == RuntimeChoice::Containerd {
        let problem = doctor::containerd_problem(&config.runtime.containerd_address).await;
        return problem.map_or(Ok(false), Err);
    }
    match backends::survey_engine(&config.runtime).await {
        Some(Ok(engine)) => Ok(engine.is_published),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(false),
    }
}
