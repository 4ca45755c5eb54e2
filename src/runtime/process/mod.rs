//! The process runtime: an instance is a child process. It is for trusted apps, because only the rights of the server's
//! user keep an app from the host.
//!
//! Between the server and each instance stands a `guardian`, which is the server's own program as an internal
//! command. The guardian starts a `launcher`, another internal command, which becomes the app. Whichever process is
//! killed, the rest of the instance ends:
//!
//! | what dies | what ends the rest |
//! |---|---|
//! | the app | its guardian adopts and kills all processes that the app started, and removes the folder |
//! | the server | each guardian, because its pipe from the server ends |
//! | a guardian | the app dies with it (`PR_SET_PDEATHSIG`); the server finds the other processes (see `takeover`) |
//! | server and guardian | the app dies with the guardian; the next server finds the other processes |
//!
//! | file | what it does |
//! |---|---|
//! | `runtime`, `settings`, `shared` | the trait's implementation, its settings, the state it shares with supervisors |
//! | `supervisor` | the server's task for one instance |
//! | `guardian`, `launcher` | the two internal commands |
//! | `protocol` | the messages between server, guardian and launcher |
//! | `instance_dir` | the instance's folder |
//! | `ports` | reserves ports |
//! | `processes`, `descendants` | finds and kills processes |
//! | `takeover` | what a crashed server or guardian left |
//!
//! **Environment of an app.** From the server's environment: `PATH`, `LANG` and `TZ`, and no other variable. `HOME` is
//! the working directory and `TMPDIR` a folder beside it; both are removed with the instance. Then the template's own
//! variables, which may replace these. Then the promised ones, which cannot be replaced: `HOST=127.0.0.1`, `PORT`,
//! `INSTANCE_ID`, `INSTANCE_URL`, `INSTANCE_HOST`, and the label `TRY_IT_NOW_NODE`.
//!
//! **Stopping** kills at once, without a grace period: an instance is never used again, so it has no data to save.

//!
//! **The server's own secrets** are in its environment and its memory. An app has the user of the server, so [`hide_server`]
//! takes the server's files in `/proc` from that user. Guardians and launchers have no variable of the server.

mod descendants;
mod guardian;
mod instance_dir;
mod launcher;
mod ports;
mod processes;
mod protocol;
mod runtime;
mod settings;
mod shared;
mod supervisor;
mod takeover;

use std::ffi::OsString;
use std::process::ExitCode;

pub use runtime::ProcessRuntime;
pub use settings::{OUTPUT_LOG_BYTES, ProcessSettings};

/// Makes this process undumpable: programs of the same user cannot read its environment, memory and descriptors, nor
/// trace it. It writes no core dump any more. Programs that it starts are not concerned.
///
/// # Errors
/// The kernel refuses.
pub fn hide_server() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Runs an internal command of this program, if the arguments (the program's name first) name one of the process
/// runtime's. Returns `None` if they do not.
///
/// `main` must call this before anything that starts a thread: the app dies with the thread that started it, and the
/// guardian counts all children of its process as the instance's.
pub fn internal_command(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    match args.next()?.to_str()? {
        guardian::NAME => Some(guardian::run()),
        launcher::NAME => Some(launcher::run(args)),
        _ => None,
    }
}
