//! The command line of the program, and its commands.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | the command line and its help |
//! | `serve.rs` | `serve`: runs the server |
//! | `first_process.rs` | `serve` as process 1: the server as its child |
//! | `bake.rs` | `bake`: makes checkpoints before a server starts |
//! | `clean.rs` | `clean`: removes everything of this program from the host |
//! | `doctor/` | `doctor`: checks the host; also runs when a server starts |
//! | `sample_app/` | `sample-app`: the built-in guest book |
//! | `command.rs` | what every command does: read the configuration, run, print, exit |
//! | `idle_nodes.rs` | access to a state folder while no server uses it, for `bake` and `clean` |
//! | `error.rs` | why `bake` or `clean` failed |

mod bake;
mod clean;
mod command;
mod doctor;
mod error;
mod first_process;
mod idle_nodes;
pub(crate) mod sample_app;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Origin;

/// Puts a "Try it now" button on any app.
#[derive(Parser)]
#[command(version, arg_required_else_help = false)]
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
    /// Remove all instances and checkpoints of this program from the host, in every CONTAINER_MODE; images stay
    Clean,
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
            Command::Clean => clean::run(),
            Command::SampleApp => sample_app::run_command(),
        }
    }
}
