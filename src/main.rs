//! The program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First, for the other roles of this program are small processes with one thread.
    if let Some(code) = try_it_now::runtime::process::internal_command(std::env::args_os()) {
        return code;
    }
    ExitCode::SUCCESS
}
