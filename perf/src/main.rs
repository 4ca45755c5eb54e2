//! Measures the whole server under load, and prints ratios to what the same machine does in the same run.
//!
//! The server is the real program, in a process on one core; the load is this process, on another. Baselines: `rtt` is
//! a ping of 100 bytes over loopback TCP and its echo; `plain` a fixed response by the server's HTTP engine, async
//! runtime and allocator; `direct` the app without the server. Two measurements of a ratio are made in turn, so that
//! other work of the machine affects both, and the table shows the median over the pairs with its interval.
//!
//! | file | content |
//! |---|---|
//! | `cases` | what is measured |
//! | `bench` | servers, loads and pairs of measurements, for all cases |
//! | `load`, `traffic`, `response`, `client` | the load |
//! | `server`, `container_host`, `valkey`, `peers`, `child` | the processes that are measured |
//! | `cpu`, `clock` | processors and time |
//! | `stats`, `report` | medians and the table |

mod bench;
mod cases;
mod child;
mod client;
mod clock;
mod container_host;
mod cpu;
mod failure;
mod load;
mod peers;
mod report;
mod response;
mod server;
mod stats;
mod traffic;
mod valkey;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use bench::{Bench, BenchSize};
use cases::Case;
use child::ChildProcess;
use cpu::Cores;
use failure::Failure;
use peers::Role;
use report::Row;
use server::{Programs, RuntimeKind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a server under load, as ratios to other measurements of the same run.
#[derive(Parser)]
struct Cli {
    /// Measure only this case (may be repeated); by default all, but with --quick not restore, memory and valkey
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Measure for a few seconds, to check that everything works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Program of the server; by default the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    server: Option<PathBuf>,
    /// Program of an earlier build: measure only how the server compares with it
    #[arg(long, value_name = "PROGRAM")]
    earlier: Option<PathBuf>,
    /// What runs the instances; processes require --quick
    #[arg(long, value_enum, default_value = "none")]
    runtime: RuntimeKind,
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// The program that a child executes, and its arguments
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        Some(role) => peers::run(role, &cli.program),
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
    let size = match (cli.quick, cli.runtime) {
        (false, RuntimeKind::None) => BenchSize::FULL,
        (true, RuntimeKind::None) => BenchSize::QUICK,
        (true, RuntimeKind::Process) => BenchSize::QUICK_WITH_PROCESSES,
        (false, RuntimeKind::Process) => {
            return Err(
                "the full size needs more instances than processes fit: leave --runtime out, or add --quick"
                    .into(),
            );
        }
    };
    let server = match &cli.server {
        Some(server) => server.clone(),
        None => std::env::current_exe()?.with_file_name("try-it-now"),
    };
    let cores = Cores::choose()?;
    cpu::bind_to(cores.load)?;
    println!(
        "The server, or what it is compared with, runs on core {}; the load, and apps behind the server, on core {}.{}",
        cores.server,
        cores.load,
        if cores.are_two() { "" } else { " There is only one core: the figures mean little." },
    );
    println!("Load average at the start: {}", load_average());
    let bench = Bench {
        programs: Programs { server, runtime: cli.runtime },
        size,
        cores,
        echo: ChildProcess::role(Role::Echo, cores.server)?,
        plain: ChildProcess::role(Role::Plain, cores.server)?,
    };
    let mut rows: Vec<Row> = Vec::new();
    for case in cases(cli) {
        rows.extend(match &cli.earlier {
            Some(earlier) => case.compare(&bench, earlier)?,
            None => case.measure(&bench)?,
        });
    }
    println!("Load average at the end: {}\n\n{}", load_average(), report::table(&rows));
    if let Some(file) = &cli.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(())
}

/// Returns the cases of the command line, else all; to compare two builds, all in which they can be. A quick run leaves
/// out those with containers or Valkey, which take too long to start.
fn cases(cli: &Cli) -> Vec<Case> {
    if cli.cases.is_empty() {
        let all = Case::value_variants().iter().copied();
        let all = all.filter(|case| cli.earlier.is_none() || case.is_comparable());
        return all
            .filter(|case| !(cli.quick && matches!(case, Case::Restore | Case::Memory | Case::Valkey)))
            .collect();
    }
    cli.cases.clone()
}

/// Returns the average number of threads that ran or were ready to run in the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
