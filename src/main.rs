//! The program `try-it-now`: the command line of the library, with mimalloc as the allocator.

use std::process::ExitCode;

use clap::Parser;
use try_it_now::cli::Cli;
use try_it_now::runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Trap: the process guardian and the OCI runtime entry are roles of this program that must begin before any thread
    // exists.
    if let Some(code) = runtime::process::internal_command(std::env::args_os()) {
        return code;
    }
    if let Some(code) = runtime::containerd::internal_command(std::env::args_os()) {
        return code;
    }
    Cli::parse().run()
}
