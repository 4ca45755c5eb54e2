//! `run`: a demo of any image in one command.
//!
//! The runtime is chosen (`runtime_choice.rs`), the image is started once to find its port and a page that answers, as
//! `try-image` does it, and the template that follows from both is served on a free port of the loopback. One instance
//! is claimed for the user, and its address is printed (`claim.rs`).
//!
//! Each run has a state folder of its own (`run_dir.rs`), and so nodes of its own: it never touches what a server or
//! another run has. It removes everything at its end; what a killed run left is removed by the next one.

mod claim;
mod progress;
mod run_dir;
mod runtime_choice;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::bake::interrupted;
use super::command::{CONFIG_ERROR, FAILURE, fail, own_program, print_line, run_collecting_problems};
use super::error::CommandError;
use super::try_image::{ExploreRequest, ImageOptions, Suggestion, explore, suggestion, time};
use crate::config::{self, Config, format_duration};
use crate::server::bootstrap::{self, Listening, ServerHandle};
use claim::claim;
use progress::Progress;
use run_dir::RunDir;
pub(super) use run_dir::state_dirs;
use runtime_choice::{ChosenRuntime, RuntimeChoice, choose};

/// Longest time to find a runtime that answers, in the order in which they are asked.
const CHOICE_DEADLINE: Duration = Duration::from_secs(60);
/// How long an instance may take, for each second that the app may take until it answers: a bake starts it twice.
const CLAIM_FACTOR: u32 = 3;

/// What to run.
#[derive(Debug, Args)]
pub(super) struct RunImage {
    #[command(flatten)]
    image: ImageOptions,
    /// How long an instance lives
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1h")]
    ttl: Duration,
    /// What runs the instances, in place of the first of these that answers
    #[arg(long, value_name = "RUNTIME", value_enum)]
    runtime: Option<RuntimeChoice>,
    /// A program and its arguments in place of those of the image; the last option
    #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs a demo of an image until a signal ends it.
pub(super) fn run(options: RunImage) -> ExitCode {
    let own_program = match own_program() {
        Ok(path) => path,
        Err(status) => return status,
    };
    let suggestion = match suggestion(&options.image, &options.command) {
        Ok(suggestion) => Suggestion { ttl: Some(options.ttl), ..suggestion },
        Err(problem) => return fail(CONFIG_ERROR, problem),
    };
    let (outcome, problems) = match run_collecting_problems(demo(&options, suggestion, own_program)) {
        Ok(ran) => ran,
        Err(status) => return status,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Config(errors)) => fail(CONFIG_ERROR, errors),
        Err(error) => {
            let lines: String = problems.iter().map(|line| format!("\n{line}")).collect();
            fail(FAILURE, format!("{error}{lines}"))
        }
    }
}

/// Chooses a runtime, runs the demo, and removes everything of it.
///
/// # Errors
/// No runtime answers, the image does not work, the command was interrupted before there was an instance, or something
/// cannot be removed.
async fn demo(
    options: &RunImage,
    mut suggestion: Suggestion,
    own_program: PathBuf,
) -> Result<(), CommandError> {
    let interrupted = interrupted().map_err(CommandError::Signals)?;
    let progress = Progress::begin();
    progress.step("looking for Docker, Podman or containerd");
    let template = suggestion.toml();
    let choosing = choose(options.runtime, &template, &own_program);
    let chosen = match tokio::time::timeout(CHOICE_DEADLINE, choosing).await {
        Ok(chosen) => chosen?,
        Err(_) => return Err(CommandError::NoRuntime(format!("no answer within {CHOICE_DEADLINE:?}"))),
    };
    suggestion.has_egress = chosen.needs_egress;
    let dir = RunDir::open(&chosen, &own_program).await?;
    let run = Run { options, chosen, dir, own_program: &own_program, progress };
    let outcome = run.until(suggestion, interrupted).await;
    run.dir.remove(&run.chosen.config.runtime, &own_program).await?;
    outcome
}

/// One run.
struct Run<'a> {
    options: &'a RunImage,
    chosen: ChosenRuntime,
    dir: RunDir,
    own_program: &'a Path,
    progress: Progress,
}

impl Run<'_> {
    /// Runs the demo until `interrupted` completes.
    ///
    /// # Errors
    /// The image does not work, or `interrupted` completed before there was an instance.
    async fn until(
        &self,
        suggestion: Suggestion,
        interrupted: impl Future<Output = ()>,
    ) -> Result<(), CommandError> {
        let mut interrupted = std::pin::pin!(interrupted);
        let config = tokio::select! {
            explored = self.explore(suggestion) => explored?,
            () = &mut interrupted => return Err(CommandError::RunInterrupted),
        };
        let (listening, listens) = oneshot::channel();
        let stop = CancellationToken::new();
        let handle = ServerHandle { listening: Some(listening), stop: stop.clone() };
        let mut serving =
            std::pin::pin!(bootstrap::serve_with(config, None, self.own_program.to_owned(), handle));
        let outcome = tokio::select! {
            ended = &mut serving => return Ok(ended?),
            () = &mut interrupted => Err(CommandError::RunInterrupted),
            claimed = self.claim(listens) => claimed,
        };
        if outcome.is_ok() {
            tokio::select! {
                ended = &mut serving => return Ok(ended?),
                () = interrupted => {}
            }
        }
        stop.cancel();
        serving.await?;
        outcome
    }

    /// Fetches the image, starts it once, and returns the configuration of a server for it.
    ///
    /// # Errors
    /// The image cannot be fetched, or does not answer.
    async fn explore(&self, mut suggestion: Suggestion) -> Result<Config, CommandError> {
        let image = suggestion.image.to_string();
        let failed = |why: String| CommandError::ImageDoesNotWork { image: image.clone(), why };
        let config = self.config(&suggestion)?;
        let template =
            config.templates.iter().next().ok_or_else(|| failed("it has no template".to_owned()))?;
        let runtime = self.dir.runtime().ok_or_else(|| failed("it was explored already".to_owned()))?;
        self.progress.step(&format!("fetching {image} with {}", self.chosen.title));
        let fetching = runtime.fetch(&template.app);
        let fetched = self.progress.follow(fetching, || runtime.fetch_progress(&template.app)).await;
        fetched.map_err(|error| failed(error.to_string()))?;
        let facts = runtime.image_facts(&template.app);
        let facts = facts.ok_or_else(|| failed("it has no configuration".to_owned()))?;
        self.progress.step("starting it to find its port and a page that answers");
        let request = ExploreRequest {
            public_url: &config.server.public,
            template,
            facts: &facts,
            port: self.options.image.port,
        };
        let found = explore(&*runtime, request).await.map_err(|error| failed(error.to_string()))?;
        suggestion.port = Some(found.port);
        suggestion.page = found.page;
        drop(runtime);
        self.dir.close_runtime();
        self.config(&suggestion)
    }

    /// Returns the configuration of a server for a template, in the folder of this run.
    ///
    /// # Errors
    /// The image's archive cannot be read any more.
    fn config(&self, suggestion: &Suggestion) -> Result<Config, CommandError> {
        let mode = self.chosen.config.runtime.mode;
        let config = config::read_for_demo(&suggestion.toml(), mode, self.own_program)?;
        Ok(Config { state_dir: self.dir.path().to_owned(), ..config })
    }

    /// Claims an instance as soon as the server has one, and prints where it is.
    ///
    /// # Errors
    /// The server makes no instance in time.
    async fn claim(&self, listens: oneshot::Receiver<Listening>) -> Result<(), CommandError> {
        // If the server ends before it listens, its error is reported.
        let Ok(server) = listens.await else { return std::future::pending().await };
        self.progress.step(match self.chosen.name {
            "containerd" => "baking: starting an instance and freezing it, so that others are restored",
            _ => "starting instances",
        });
        let longest = self.options.image.timeout * CLAIM_FACTOR;
        let url = claim(server.address, longest).await.map_err(CommandError::NoInstance)?;
        self.progress.end();
        print_line(&format!("your instance:  {url}"));
        print_line(&format!(
            "the front page: {} (an instance of one's own for each visitor)",
            server.home_url
        ));
        let ttl = format_duration(self.options.ttl);
        print_line(&format!(
            "run by {}; each instance lives {ttl}; Ctrl-C ends and removes all",
            self.chosen.title
        ));
        Ok(())
    }
}
