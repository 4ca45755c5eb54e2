//! The commands of the program.

mod bake;
mod clean;
pub mod doctor;
mod error;
pub mod sample_app;
mod serve;
mod state;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::server::backends;
use crate::telemetry;

/// The exit status for a mistake in the configuration (`EX_USAGE`).
const USAGE: u8 = 64;

/// Puts a "Try it now" button on any app.
#[derive(Parser)]
#[command(version, arg_required_else_help = false)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (what the program does when no command is given)
    Serve {
        /// A file of templates in TOML; without one, the built-in sample app is served
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Say what this host can do, and whether the configured mode works (exit status 0) or not (1)
    Doctor {
        /// The file of templates, as for serve
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Say it in JSON: an array of objects with check, verdict, found and remedy
        #[arg(long)]
        json: bool,
    },
    /// Bake a template, or all, as a server does when it starts; then it need not
    Bake {
        /// The file of templates, as for serve
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The name of the only one to bake
        template: Option<String>,
    },
    /// Remove everything of ours from this host, whatever CONTAINER_MODE says: instances and checkpoints; images stay
    Clean,
    /// Run the built-in guest book, as an instance does: HOST, PORT and INSTANCE_ID come from the environment
    SampleApp,
}

impl Cli {
    /// Runs the command that the command line names; without one, the server. Returns the exit status of the program.
    pub fn run(self) -> ExitCode {
        match self.command.unwrap_or(Command::Serve { config: None }) {
            Command::Serve { config } => serve(config),
            Command::Doctor { config, json } => examine(config, json),
            Command::Bake { config, template } => bake(config, template),
            Command::Clean => clean(),
            Command::SampleApp => sample(),
        }
    }
}

fn serve(file: Option<PathBuf>) -> ExitCode {
    let (config, own_program) = match configured(file.as_deref()) {
        Ok(configured) => configured,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::init(config.log) {
        return fail(1, &error.to_string());
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    run(tokio::runtime::Builder::new_multi_thread(), serve::serve(config, file, own_program))
}

fn examine(file: Option<PathBuf>, json: bool) -> ExitCode {
    use std::io::Write;
    let (config, _) = match configured(file.as_deref()) {
        Ok(configured) => configured,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start: {error}")),
    };
    let findings = runtime.block_on(doctor::examine(
        &config,
        backends::shared_store(&config),
        &backends::baked(&config),
    ));
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    let told = if json { doctor::json(&findings) } else { doctor::text(&findings) };
    if let Err(error) = std::io::stdout().write_all(told.as_bytes()) {
        return fail(1, &error.to_string());
    }
    if doctor::works(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bake(file: Option<PathBuf>, template: Option<String>) -> ExitCode {
    let (config, own_program) = match configured(file.as_deref()) {
        Ok(configured) => configured,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::init(config.log) {
        return fail(1, &error.to_string());
    }
    let work = bake::bake(config, own_program, template.as_deref(), say);
    run(tokio::runtime::Builder::new_multi_thread(), work)
}

/// The configuration, and the path of this program; else what to exit with, the reason told.
fn configured(file: Option<&Path>) -> Result<(Config, PathBuf), ExitCode> {
    let own_program = std::env::current_exe()
        .map_err(|error| fail(1, &format!("cannot find this program's own file: {error}")))?;
    let config = config::read(file, &own_program).map_err(|mistakes| fail(USAGE, &mistakes.to_string()))?;
    Ok((config, own_program))
}

fn clean() -> ExitCode {
    let host = match config::read_host() {
        Ok(host) => host,
        Err(mistakes) => return fail(USAGE, &mistakes.to_string()),
    };
    let own_program = std::env::current_exe().unwrap_or_else(|_| "try-it-now".into());
    run(tokio::runtime::Builder::new_current_thread(), async {
        let cleaned = clean::clean(&host, &own_program).await?;
        say(&format!("containers removed: {}", cleaned.containers));
        say(&format!("snapshots removed: {}", cleaned.snapshots));
        if cleaned.network > 0 {
            say(&format!("links and firewall tables removed: {}", cleaned.network));
        }
        for path in &cleaned.paths {
            say(&format!("removed: {}", path.display()));
        }
        Ok::<_, error::CommandError>(())
    })
}

fn sample() -> ExitCode {
    let settings = match sample_app::Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => return fail(USAGE, &error.to_string()),
    };
    run(tokio::runtime::Builder::new_current_thread(), sample_app::run(settings))
}

fn run<E: std::fmt::Display>(
    mut builder: tokio::runtime::Builder,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start: {error}")),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

/// A line on standard output.
fn say(line: &str) {
    use std::io::Write;
    // Nobody reads it, then.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Says why on standard error.
fn fail(code: u8, why: &str) -> ExitCode {
    use std::io::Write;
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{why}");
    ExitCode::from(code)
}
