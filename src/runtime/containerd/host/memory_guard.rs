//! Ends the largest instance when all instances together have nearly used up their memory.
//!
//! At the limit itself the kernel would choose, and it chooses a process and not an instance: it may be one of an
//! instance that uses little. So this server watches the memory, and the more often, the less is left.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};

use super::cgroups;
use super::node_group::NodeLimits;
use crate::instance::InstanceId;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::inner::Inner;

/// Pause between two readings at most, and at least.
const MAX_PAUSE: Duration = Duration::from_millis(500);
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// Pause where the memory cannot be read.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Bytes that instances are assumed to allocate within a second at most.
const ALLOCATED_PER_SECOND: u64 = 4 << 30;
/// Least time between two settings of the limits.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two punches of the gaps of shared memory.
const PUNCH_INTERVAL: Duration = Duration::from_secs(10);
/// How long the end of an instance may take before another one is ended.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two attempts to kill all processes of an instance.
const KILL_INTERVAL: Duration = Duration::from_millis(5);

/// Watches the memory of all instances for as long as the runtime lives.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut watch = Watch { refreshed: Instant::now(), punched: None, grants: false };
    while let Some(inner) = inner.upgrade() {
        let pause = watch.guard(&inner).await;
        drop(inner);
        tokio::time::sleep(pause).await;
    }
}

/// What the watch remembers between two readings.
struct Watch {
    /// When the limits were set last.
    refreshed: Instant,
    /// When the gaps of shared memory were punched last.
    punched: Option<Instant>,
    /// Whether the limit is above the operator's, because the memory of an instance that was ended was granted to the
    /// others.
    grants: bool,
}

impl Watch {
    /// Reads the memory once, and ends the largest instance if there is too little left. Returns the pause until the
    /// next reading.
    async fn guard(&mut self, inner: &Arc<Inner>) -> Duration {
        let limit = inner.node_limits().memory;
        let Some(used) = used_bytes(inner).await else { return RETRY_PAUSE };
        let most = limit.saturating_sub(margin(limit));
        let fits = used < most;
        let is_due = if self.grants { fits } else { self.refreshed.elapsed() >= REFRESH_INTERVAL };
        if is_due {
            inner.set_node_limits(0).await;
            (self.refreshed, self.grants) = (Instant::now(), false);
        }
        if fits {
            return pause(most - used);
        }
        // Pages that belong to no instance are cheaper than an instance. But an instance that allocates them again and
        // again must not occupy the server.
        if self.punched.is_none_or(|at| at.elapsed() >= PUNCH_INTERVAL) {
            inner.checkpoints.punch_gaps(None).await;
            self.punched = Some(Instant::now());
            return MIN_PAUSE;
        }
        self.grants |= end_largest(inner, used, limit).await;
        MIN_PAUSE
    }
}

async fn used_bytes(inner: &Arc<Inner>) -> Option<u64> {
    let group = inner.node_group.clone();
    blocking(move || group.used_bytes()).await
}

/// Returns the bytes below the limit at which an instance is ended.
fn margin(limit: u64) -> u64 {
    (limit / 16).clamp(16 << 20, 512 << 20)
}

/// Returns the pause until the next reading, when so many bytes are left before an instance is ended.
fn pause(left: u64) -> Duration {
    Duration::from_secs_f64(left as f64 / ALLOCATED_PER_SECOND as f64).clamp(MIN_PAUSE, MAX_PAUSE)
}

/// Ends the instance without which the most memory would be free, and waits until it is removed. Returns whether its
/// memory was granted to the others meanwhile.
///
/// A process that ends frees its memory over milliseconds, and the kernel does not count it as the largest then. If
/// another instance reached the limit of all in this time, the kernel would end that one too.
async fn end_largest(inner: &Arc<Inner>, used: u64, limit: u64) -> bool {
    let ids = inner.instances.ids();
    let largest = blocking(move || {
        let sizes = ids.into_iter().filter_map(|id| Some((cgroups::charged_bytes(id.as_str())?, id)));
        sizes.max_by_key(|(bytes, _)| *bytes)
    });
    let Some((bytes, id)) = largest.await else { return false };
    let Some(instance) = inner.instances.get(&id) else { return false };
    let [mebibytes, used_mebibytes, limit_mebibytes] = [bytes, used, limit].map(|bytes| bytes >> 20);
    // An instance that is being ended is about to free its memory.
    if !instance.is_ending() {
        let cause = format!(
            "all instances together use {used_mebibytes} MiB of the {limit_mebibytes} MiB that they may use, and this \
             one uses the most: {mebibytes} MiB"
        );
        *instance.end_cause.lock() = Some(cause);
        tracing::warn!(%id, mebibytes, used_mebibytes, limit_mebibytes, "memory of all instances nearly used up; largest instance ended");
    }
    inner.set_node_limits(bytes).await;
    let killed = kill_until_empty(&id);
    let _ = timeout(END_DEADLINE, async { tokio::join!(killed, instance.removed.cancelled()) }).await;
    true
}

/// Kills the processes of an instance until there are none.
async fn kill_until_empty(id: &InstanceId) {
    loop {
        let owned = id.clone();
        let pids = blocking(move || cgroups::processes(owned.as_str())).await;
        if pids.is_empty() {
            return;
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            // An error means that it has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(KILL_INTERVAL).await;
    }
}

impl Inner {
    /// Returns the limits of all instances of this node together.
    pub(crate) fn node_limits(&self) -> NodeLimits {
        self.node_limit_settings.limits(self.checkpoints.reserved_bytes())
    }

    /// Sets the limits of all instances of this node together, whatever was set before. `granted` bytes of memory are
    /// added for as long as an instance that is ended still has them.
    pub(crate) async fn set_node_limits(&self, granted: u64) {
        let (group, limits) = (self.node_group.clone(), self.node_limits());
        let limits = NodeLimits { memory: limits.memory.saturating_add(granted), ..limits };
        if let Err(error) = blocking(move || group.set_limits(&limits)).await {
            tracing::warn!(%error, "failed to limit what all instances together use (see: try-it-now doctor)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_memory_is_left_the_sooner_it_is_read_again() {
        assert_eq!(pause(0), MIN_PAUSE);
        assert_eq!(pause(512 << 20), Duration::from_millis(125));
        assert_eq!(pause(u64::MAX), MAX_PAUSE);
        assert_eq!(margin(600 << 20), (600 << 20) / 16);
        assert_eq!(margin(64 << 30), 512 << 20);
        assert_eq!(margin(64 << 20), 16 << 20);
    }
}
