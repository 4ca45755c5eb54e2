//! The guardian: a small process between the server and one instance. It ends the instance as a whole.
//!
//! It lives as long as its standard input: a pipe that only the server holds open for writing. The server writes the
//! launch request to it and nothing after that, so the end of the pipe means that the server wants the instance
//! stopped, or that the server died. The guardian adopts all processes that lose their parent in the instance, and the
//! app dies with the guardian.
//!
//! `PR_SET_PDEATHSIG` belongs to the *thread* that started a child, and children do not inherit it. So the main thread
//! of the guardian starts the app, and the main thread waits for it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, wait,
};

use super::instance_dir::{self, InstanceDirError};
use super::protocol::{LaunchRequest, MissingResource, Report, encode_line};
use super::{descendants, launcher};

/// Name of the internal command.
pub(super) const NAME: &str = "internal-guardian";

/// Runs the guardian. It exits with a failure if a process or a file of the instance may remain.
pub(super) fn run() -> ExitCode {
    let mut input = BufReader::new(io::stdin());
    let mut request = Vec::new();
    let launch: LaunchRequest =
        match input.read_until(b'\n', &mut request).map(|_| serde_json::from_slice(&request)) {
            Ok(Ok(launch)) => launch,
            // The server died before it sent the request, so there is nothing to clean up.
            _ => return ExitCode::SUCCESS,
        };
    let stop = Arc::new(StopRequest::default());
    watch_server(input, Arc::clone(&stop));
    if let Err(failure) = run_app(&launch, &stop) {
        report(&failure);
    }
    descendants::kill_all();
    match instance_dir::remove(&launch.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report(&Report::Failed { why: format!("cannot remove its folder: {e}"), lacking: None });
            ExitCode::FAILURE
        }
    }
}

/// Runs the app until it ends by itself or the server wants it stopped.
fn run_app(launch: &LaunchRequest, stop: &StopRequest) -> Result<(), Report> {
    set_child_subreaper(Some(getpid())).map_err(|e| failed("adopt orphans", &e.into()))?;
    instance_dir::create(&launch.folder, launch.files.as_deref(), &mut || !stop.is_set()).map_err(|e| {
        let lacking = match &e {
            InstanceDirError::Io { source, .. } => MissingResource::of(source),
            _ => None,
        };
        Report::Failed { why: e.to_string(), lacking }
    })?;
    let (child, stream) = launcher::spawn().map_err(|e| failed("start the launcher", &e))?;
    let app = Pid::from_child(&child);
    stop.set_app(pidfd_open(app, PidfdFlags::empty()).map_err(|e| failed("hold the launcher", &e.into()))?);
    launcher::send_request(stream, launch).map_err(|why| Report::Failed { why, lacking: None })?;
    report(&Report::Started);
    let cause = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == app => break describe_status(status),
            // Another process ended, or the call was interrupted.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => break format!("unknown: {e}"),
        }
    };
    report(&Report::Ended { how: cause });
    Ok(())
}

fn describe_status(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown".to_owned(),
    }
}

fn failed(what: &str, error: &io::Error) -> Report {
    Report::Failed {
        why: format!("its guardian cannot {what}: {error}"),
        lacking: MissingResource::of(error),
    }
}

fn report(report: &Report) {
    // An error means that the server is dead, which needs no report.
    let _ = encode_line(report).and_then(|line| io::stdout().lock().write_all(&line));
    let _ = io::stdout().flush();
}

/// Whether the server wants the instance stopped, which may be before the app exists, and a descriptor of the app.
#[derive(Default)]
struct StopRequest(Mutex<(bool, Option<OwnedFd>)>);

impl StopRequest {
    fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Sets the process that a stop kills. If the stop was requested already, it is killed now.
    fn set_app(&self, app: OwnedFd) {
        self.update(|state| state.1 = Some(app));
    }

    fn update(&self, change: impl FnOnce(&mut (bool, Option<OwnedFd>))) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if let (true, Some(app)) = &*state {
            // An error means that the app has ended already.
            let _ = pidfd_send_signal(app, Signal::KILL);
        }
    }
}

/// Waits for the end of the pipe from the server on a thread of its own, because the main thread waits for the app.
fn watch_server(mut input: impl Read + Send + 'static, stop: Arc<StopRequest>) {
    let watch = move || {
        let _ = io::copy(&mut input, &mut io::sink());
        stop.update(|state| state.0 = true);
    };
    // Without this thread the instance could not be stopped. The panic ends the guardian, and the server then cleans up
    // in its place.
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(watch)
        .expect("a host with room for a process has room for a thread");
}
