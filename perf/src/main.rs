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
//! | `http2`, `certificate` | the load over TLS with HTTP/2 |
//! | `bulk` | large bodies: an app and a client |
//! | `server`, `container_host`, `valkey`, `peers`, `proxies`, `child` | the processes that are measured |
//! | `cpu`, `memory`, `socket_memory`, `clock` | processors, memory and time |
//! | `stats`, `report` | medians and the table |
//! | `findings`, `charts`, `document` | what a run writes: JSON, charts, one page of HTML |
//! | `progress`, `repository` | the line that shows progress, and the folder in which all this happens |

mod bench;
mod bulk;
mod cases;
mod certificate;
mod charts;
mod child;
mod client;
mod clock;
mod container_host;
mod cpu;
mod document;
mod failure;
mod findings;
mod http2;
mod load;
mod memory;
mod peers;
mod progress;
mod proxies;
mod report;
mod repository;
mod response;
mod server;
mod socket_memory;
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
use document::Document;
use failure::Failure;
use findings::Findings;
use peers::Role;
use report::Row;
use server::{Programs, RuntimeKind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a server under load, as ratios to other measurements of the same run.
#[derive(Parser)]
struct Cli {
    /// Measure only this case (may be repeated); by default all, but with --quick not restore, refill, memory, engines and valkey
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Measure for a few seconds, to check that everything works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Write the figures, the machine and the versions to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write report.json, report.html and charts/*.svg into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Program of the server; by default the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    server: Option<PathBuf>,
    /// Program of an earlier build: measure only how the server compares with it
    #[arg(long, value_name = "PROGRAM")]
    earlier: Option<PathBuf>,
    /// Hosts of instances that a load through the proxy requests
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    hosts: Option<u32>,
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
    let size = BenchSize { hosts: cli.hosts.map_or(size.hosts, |hosts| hosts as usize), ..size };
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
    let load_before = load_average();
    println!("Load average at the start: {load_before}");
    let bench = Bench {
        programs: Programs { server, runtime: cli.runtime },
        size,
        cores,
        echo: ChildProcess::role(Role::Echo, cores.server)?,
        plain: ChildProcess::role(Role::Plain, cores.server)?,
        findings: Findings::default(),
    };
    let mut rows: Vec<Row> = Vec::new();
    let cases = cases(cli);
    for (number, case) in cases.iter().enumerate() {
        progress::begin_case(case.name(), number + 1, cases.len());
        rows.extend(match &cli.earlier {
            Some(earlier) => case.compare(&bench, earlier)?,
            None => case.measure(&bench)?,
        });
    }
    let load_after = load_average();
    progress::print(&format!("Load average at the end: {load_after}\n\n{}", report::table(&rows)));
    let document = Document::new(&bench.programs.server, [load_before, load_after], &rows, &bench.findings)?;
    if let Some(file) = &cli.json {
        std::fs::write(file, document.json()?)?;
    }
    if let Some(folder) = &cli.out {
        document.write(folder)?;
        println!("Written: {}", folder.join("report.html").display());
    }
    Ok(())
}

/// Returns the cases of the command line, else all; to compare two builds, all in which they can be. A quick run leaves
/// out those with containers or Valkey, which take too long to start.
fn cases(cli: &Cli) -> Vec<Case> {
    if cli.cases.is_empty() {
        let all = Case::value_variants().iter().copied();
        let all = all.filter(|case| cli.earlier.is_none() || case.is_comparable());
        return all.filter(|case| !(cli.quick && case.needs_stack())).collect();
    }
    cli.cases.clone()
}

/// Returns the average number of threads that ran or were ready to run in the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
