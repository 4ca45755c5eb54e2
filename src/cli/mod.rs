//! The command line of the program, and its commands.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | the command line and its help |
//! | `serve.rs` | `serve`: runs the server |
//! | `first_process.rs` | `serve` as process 1: the server as its child |
//! | `bake.rs` | `bake`: makes checkpoints before a server starts |
//! | `try_image/` | `try-image`: finds out whether an image works as a template |
//! | `run_image/` | `run`: a demo of any image in one command |
//! | `clean.rs` | `clean`: removes everything of the nodes in a state folder, or of all nodes, from the host |
//! | `doctor/` | `doctor`: checks the host; also runs when a server starts |
//! | `config.rs` | `config`: prints the configuration in effect |
//! | `sample_app/` | `sample-app`: the built-in guest book |
//! | `command.rs` | what every command does: read the configuration, run, print, exit |
//! | `idle_nodes.rs` | access to a state folder while no server uses it, for `bake` and `clean` |
//! | `error.rs` | why `bake`, `clean`, `run` or `try-image` failed |

mod bake;
mod clean;
mod command;
mod config;
mod doctor;
mod error;
mod first_process;
mod idle_nodes;
mod run_image;
pub(crate) mod sample_app;
mod serve;
mod try_image;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Origin, env_file};
use crate::telemetry::version_with_commit;
use run_image::RunImage;
use try_image::TryImage;

/// Puts a "Try it now" button on any app.
#[derive(Parser)]
#[command(version = version_with_commit(), arg_required_else_help = false)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default without a command)
    Serve {
        /// The file of templates, in TOML; without it, the built-in sample app is served
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check the host for the configured mode and print a fix for each problem (exit status 0 or 1)
    Doctor {
        /// The file of templates, as for serve
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON: an array of objects with check, verdict, found and remedy
        #[arg(long)]
        json: bool,
        /// Where visitors reach the server, if not at PUBLIC_URL: checked for proxies that forward a visitor's X-Forwarded-For unchanged
        #[arg(long, value_name = "URL")]
        url: Option<Origin>,
    },
    /// Make the checkpoint of one template, or of all, before a server starts, which else makes them itself
    Bake {
        /// The file of templates, as for serve
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The name of the only template to bake
        template: Option<String>,
    },
    /// Find out whether an image works as a template: start, bake and restore it, and suggest a template. Exit status: 0 it
    /// restores, 3 it works but is only started cold, 1 it does not work or was not tried, 64 invalid input
    TryImage(TryImage),
    /// Run a demo of any image with Docker, Podman or containerd, and print the address of an instance; Ctrl-C ends and removes
    /// everything. Exit status: 0 it ran, 1 it did not, 64 invalid input
    Run(RunImage),
    /// Print the configuration in effect, each value with where it comes from; secrets are not shown
    Config {
        /// The file of templates, as for serve
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON: an array of objects with name, value and source
        #[arg(long)]
        json: bool,
        /// Print all variables with their defaults, commented out, as a file for EnvironmentFile= of a systemd unit
        #[arg(long, conflicts_with_all = ["json", "config"])]
        env_file: bool,
    },
    /// Write the manual pages of this program and its commands, in the format of man(1)
    Man {
        /// The folder, which exists
        folder: PathBuf,
    },
    /// Print the script that completes this program's commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Remove all instances, checkpoints and databases of the nodes in STATE_DIR, in every CONTAINER_MODE; images stay
    Clean {
        /// Remove those of all other nodes on this host too, whose state folders are elsewhere or gone: also the instances of
        /// servers that run. Databases of other nodes stay
        #[arg(long)]
        all: bool,
    },
    /// Run the built-in guest book as an instance does: HOST, PORT and INSTANCE_ID come from the environment
    SampleApp,
}

impl Cli {
    /// Runs the command of the command line, or the server if there is none. Returns the exit status of the program.
    pub fn run(self) -> ExitCode {
        match self.command.unwrap_or(Command::Serve { config: None }) {
            Command::Serve { .. } if first_process::is_first() => first_process::run(),
            Command::Serve { config } => serve::run(config),
            Command::Doctor { config, json, url } => doctor::run(config.as_deref(), json, url),
            Command::Bake { config, template } => bake::run(config.as_deref(), template.as_deref()),
            Command::TryImage(options) => try_image::run(options),
            Command::Run(options) => run_image::run(options),
            Command::Config { env_file: true, .. } => command::print(env_file().as_bytes()),
            Command::Config { config, json, .. } => config::run(config.as_deref(), json),
            Command::Man { folder } => match clap_mangen::generate_to(Self::command(), &folder) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => command::fail(command::FAILURE, format!("{}: {error}", folder.display())),
            },
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "try-it-now", &mut script);
                command::print(&script)
            }
            Command::Clean { all } => clean::run(all),
            Command::SampleApp => sample_app::run_command(),
        }
    }
}
