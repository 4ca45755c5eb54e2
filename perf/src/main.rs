//! Measures the whole server under load, and prints ratios to what the same machine does in the same run.
//!
//! The server is the real program, a process of its own on one core; the load is this one, on another. Units:
//! `rtt` is a ping of 100 bytes over loopback TCP and its echo; `plain` a fixed answer by the server's HTTP engine,
//! runtime and allocator; `direct` the app without us. Two measurements whose ratio is told are made in turn, so
//! that what else the machine does hits both, and the median over the pairs is told with its interval.

mod answer;
mod cases;
mod child;
mod clock;
mod cores;
mod load;
mod processors;
mod report;
mod roles;
mod server;
mod site;
mod stats;
mod traffic;
mod valkey;
mod visitor;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use cases::{Bench, Case, Scale};
use child::Running;
use cores::Cores;
use report::Row;
use roles::Role;
use server::{Programs, RuntimeKind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why something could not be measured.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures a server under load, as ratios to this machine's own figures.
#[derive(Parser)]
struct Cli {
    /// Measure only this (may be given again); by default everything, but with --quick neither `restore` nor `valkey`
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Take a few seconds, to see that it works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The server's program; by default the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    server: Option<PathBuf>,
    /// What runs the instances; with processes there is only --quick
    #[arg(long, value_enum, default_value = "none")]
    runtime: RuntimeKind,
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// What a child is to become, and its arguments
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        Some(role) => roles::run(role, &cli.program),
        None => measure(&cli),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> Result<(), Failure> {
    let scale = match (cli.quick, cli.runtime) {
        (false, RuntimeKind::None) => Scale::FULL,
        (true, RuntimeKind::None) => Scale::QUICK,
        (true, RuntimeKind::Process) => Scale::QUICK_WITH_PROCESSES,
        (false, RuntimeKind::Process) => {
            return Err(
                "there cannot be enough processes for this: leave --runtime out, or add --quick".into()
            );
        }
    };
    let server = match &cli.server {
        Some(server) => server.clone(),
        None => std::env::current_exe()?.with_file_name("try-it-now"),
    };
    let cores = Cores::choose()?;
    cores::bind_to(cores.load)?;
    println!(
        "The server, or what it is compared with, is on core {}; the load, and apps behind the server, on core {}.{}",
        cores.server,
        cores.load,
        if cores.are_two() { "" } else { " There is only one: the figures mean little." },
    );
    println!("Load of the machine at the beginning: {}", busyness());
    let bench = Bench {
        programs: Programs { server, runtime: cli.runtime },
        scale,
        cores,
        echo: Running::role(Role::Echo, cores.server)?,
        plain: Running::role(Role::Plain, cores.server)?,
    };
    let mut rows: Vec<Row> = Vec::new();
    for case in cases(cli) {
        rows.extend(bench.run(case)?);
    }
    println!("Load of the machine at the end: {}\n\n{}", busyness(), report::table(&rows));
    if let Some(file) = &cli.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(())
}

/// Those that were asked for, else all; containers take too long to start to be quick unasked.
fn cases(cli: &Cli) -> Vec<Case> {
    if cli.cases.is_empty() {
        let all = Case::value_variants().iter().copied();
        return all
            .filter(|case| !(cli.quick && matches!(case, Case::Restore | Case::Memory | Case::Valkey)))
            .collect();
    }
    cli.cases.clone()
}

/// The average number of threads that ran or wanted to, of the last 1, 5 and 15 minutes.
fn busyness() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
