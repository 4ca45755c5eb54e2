//! What a service manager that started the server learns of it, by the protocol of `sd_notify(3)`: that it is ready,
//! reloads its templates, stops, and lives. Without a service manager nothing is sent.

use std::io;

use sd_notify::NotifyState;
use tokio::time::interval;

use crate::telemetry::task;

/// Reports that the server answers requests, and from then on that it lives, as often as the service manager asks for.
pub(super) fn report_ready() {
    send(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        task::spawn("watchdog", async move {
            // Half of it, as `sd_watchdog_enabled(3)` recommends.
            let mut ticks = interval(limit / 2);
            loop {
                ticks.tick().await;
                send(&[NotifyState::Watchdog]);
            }
        });
    }
}

/// Runs a reload, and reports its begin and its end.
pub(super) fn report_reload(reload: impl FnOnce()) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => warn(&error),
    }
    reload();
    send(&[NotifyState::Ready]);
}

/// Reports that the process `pid` has taken the place of this one.
pub(super) fn report_successor(pid: u32) {
    send(&[NotifyState::MainPid(pid)]);
}

/// Reports that the shutdown has begun.
pub(super) fn report_stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn(&error);
    }
}

fn warn(error: &io::Error) {
    tracing::warn!(%error, "failed to send the server's state to its service manager (NOTIFY_SOCKET)");
}
