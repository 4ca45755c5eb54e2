//! The guardian: a small process between the server and one instance, which ends the instance as a whole.
//!
//! It lives as long as its standard input: a pipe whose other end only the server holds and never writes to
//! after the order, so that the end of the pipe is the server's order to stop, or its death. It adopts whatever
//! the app leaves behind, and the app dies with it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, wait,
};

use super::folder::{self, FolderError};
use super::protocol::{Lack, Launch, Report, line};
use super::{descendants, launcher};

/// The internal subcommand.
pub(super) const NAME: &str = "internal-guardian";

/// Fails when something of the instance may be left.
pub(super) fn run() -> ExitCode {
    let mut input = BufReader::new(io::stdin());
    let mut order = Vec::new();
    let launch: Launch = match input.read_until(b'\n', &mut order).map(|_| serde_json::from_slice(&order)) {
        Ok(Ok(launch)) => launch,
        // The server was gone before it said what to do, so there is nothing to clean up.
        _ => return ExitCode::SUCCESS,
    };
    let wish = Arc::new(Wish::default());
    watch(input, Arc::clone(&wish));
    if let Err(failure) = keep(&launch, &wish) {
        report(&failure);
    }
    descendants::end_all();
    match folder::remove(&launch.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report(&Report::Failed { why: format!("its folder stays: {e}"), lacking: None });
            ExitCode::FAILURE
        }
    }
}

/// Runs the app until it ends, by itself or on the server's wish.
fn keep(launch: &Launch, wish: &Wish) -> Result<(), Report> {
    set_child_subreaper(Some(getpid())).map_err(|e| failed("adopt orphans", &e.into()))?;
    folder::make(&launch.folder, launch.files.as_deref(), &mut || !wish.to_end()).map_err(|e| {
        let lacking = match &e {
            FolderError::Io { source, .. } => Lack::of(source),
            _ => None,
        };
        Report::Failed { why: e.to_string(), lacking }
    })?;
    let (child, stream) = launcher::spawn().map_err(|e| failed("start the launcher", &e))?;
    let app = Pid::from_child(&child);
    wish.concerns(pidfd_open(app, PidfdFlags::empty()).map_err(|e| failed("hold the launcher", &e.into()))?);
    launcher::order(stream, launch).map_err(|why| Report::Failed { why, lacking: None })?;
    report(&Report::Started);
    let how = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == app => break describe(status),
            // An orphan that ended, or an interruption.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => break format!("unknown: {e}"),
        }
    };
    report(&Report::Ended { how });
    Ok(())
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown".to_owned(),
    }
}

fn failed(what: &str, error: &io::Error) -> Report {
    Report::Failed { why: format!("its guardian could not {what}: {error}"), lacking: Lack::of(error) }
}

fn report(report: &Report) {
    // A server that is dead needs no report.
    let _ = line(report).and_then(|line| io::stdout().lock().write_all(&line));
    let _ = io::stdout().flush();
}

/// The server's wish that the instance end, which may come before there is an app.
#[derive(Default)]
struct Wish(Mutex<(bool, Option<OwnedFd>)>);

impl Wish {
    fn to_end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// From now on the wish ends this process.
    fn concerns(&self, app: OwnedFd) {
        self.change(|wish| wish.1 = Some(app));
    }

    fn change(&self, change: impl FnOnce(&mut (bool, Option<OwnedFd>))) {
        let mut wish = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut wish);
        if let (true, Some(app)) = &*wish {
            // It has ended already when this fails.
            let _ = pidfd_send_signal(app, Signal::KILL);
        }
    }
}

/// Waits for the end of the pipe, on a thread, for the main one waits for the app. (It must be the main thread
/// that starts the app: the app dies with the *thread* that started it.)
fn watch(mut input: impl Read + Send + 'static, wish: Arc<Wish>) {
    let watch = move || {
        let _ = io::copy(&mut input, &mut io::sink());
        wish.change(|wish| wish.0 = true);
    };
    // Without it the instance could not be ended. The panic ends the guardian, and the server takes care.
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(watch)
        .expect("a host with room for a process has room for a thread");
}
