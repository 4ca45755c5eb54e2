//! The server as process 1, as in a container: this process starts the server as its child, passes signals on to it,
//! and reaps every process that ends, also those whose parents died. It ends when the server has ended.
//!
//! Process 1 becomes the parent of all processes that lose theirs. The server itself must not reap what it did not
//! start: it would take the exit status from the code that waits for its own children.

use std::io;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::command::{FAILURE, fail};
use crate::server::handover::CHILD_OF_FIRST_PROCESS;

/// What is added to the number of the signal that ended the server, for the exit status of this process.
const SIGNAL_STATUS: i32 = 128;

/// Returns whether this process is process 1 of its namespace.
pub(super) fn is_first() -> bool {
    std::process::id() == 1
}

/// Runs this program with the same arguments as a child, and returns its exit status when it ends.
pub(super) fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(supervise())) {
        Ok(status) => ExitCode::from(status),
        Err(error) => fail(FAILURE, format!("cannot run the server as a child of process 1: {error}")),
    }
}

async fn supervise() -> io::Result<u8> {
    // Before the child exists, so that no signal is missed.
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut command = Command::new(std::env::current_exe()?);
    let child = command.args(std::env::args_os().skip(1)).env(CHILD_OF_FIRST_PROCESS, "1").spawn()?;
    let server = Pid::from_child(&child);
    loop {
        let signal = tokio::select! {
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
            _ = hangup.recv() => Signal::HUP,
            _ = ended.recv() => match reap(server) {
                Some(status) => return Ok(exit_status(status)),
                None => continue,
            },
        };
        // It may have ended already.
        let _ = kill_process(server, signal);
    }
}

/// Reaps all processes that have ended. Returns how `server` ended if it is among them.
fn reap(server: Pid) -> Option<WaitStatus> {
    let mut of_server = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == server {
            of_server = Some(status);
        }
    }
    of_server
}

fn exit_status(status: WaitStatus) -> u8 {
    let number =
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| SIGNAL_STATUS + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(FAILURE)
}
