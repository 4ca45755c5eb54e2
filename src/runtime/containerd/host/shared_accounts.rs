//! What the kernel counts for the user who made the user namespaces of all instances, beside the count of each instance:
//! inotify instances and watches, POSIX message queues and pending signals.
//!
//! Each instance may use a part of such a total. The totals of inotify are settings of the host, which are raised until
//! the limits of instances bind first. The totals of message queues and signals are the resource limits of containerd,
//! which its shims inherit; without CAP_SYS_RESOURCE they cannot be raised, so an instance may use a share of them.
//!
//! Pages of pipes and watches of epoll are counted for each user id of the host, and no two instances share one.

use std::fs;

/// Inotify instances of one instance.
pub(crate) const INOTIFY_INSTANCES: u32 = 128;
/// Inotify watches of one instance.
pub(crate) const INOTIFY_WATCHES: u32 = 16_384;

/// The totals of inotify on this host, and how much of each is for one instance.
pub const INOTIFY_TOTALS: [(&str, u32); 2] = [
    ("/proc/sys/fs/inotify/max_user_instances", INOTIFY_INSTANCES),
    ("/proc/sys/fs/inotify/max_user_watches", INOTIFY_WATCHES),
];

/// Bytes of POSIX message queues of a user of an instance: the kernel's default for a user.
const MESSAGE_BYTES: u64 = 819_200;
/// Pending signals of a user of an instance, where the total is unlimited.
const PENDING_SIGNALS: u64 = 8192;

/// A user of an instance may use this part of a limited total of message queues: as much as one queue takes by default.
const MESSAGE_SHARES: u64 = 8;
/// A user of an instance may use this part of a limited total of pending signals.
const SIGNAL_SHARES: u64 = 64;

/// The most of the totals of message queues and signals that one user of an instance uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLimits {
    /// Bytes of POSIX message queues.
    pub message_bytes: u64,
    /// Pending signals.
    pub pending_signals: u64,
    /// Whether instances of any number can use that much at the same time.
    pub is_unlimited: bool,
}

impl AccountLimits {
    /// Returns the limits where this process runs containerd.
    pub fn below(pid: Option<i32>) -> Self {
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        Self::parse(&fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default())
    }

    /// Reads the totals from `/proc/PID/limits`. A total that cannot be read is that of the kernel's default.
    fn parse(limits: &str) -> Self {
        let soft = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            value.map(|value| value.parse::<u64>().ok())
        };
        let messages = soft("Max msgqueue size").unwrap_or(Some(MESSAGE_BYTES));
        let signals = soft("Max pending signals").unwrap_or(Some(PENDING_SIGNALS));
        Self {
            message_bytes: messages.map_or(MESSAGE_BYTES, |total| total / MESSAGE_SHARES),
            pending_signals: signals.map_or(PENDING_SIGNALS, |total| total / SIGNAL_SHARES),
            is_unlimited: messages.is_none() && signals.is_none(),
        }
    }
}

/// Returns a total of this host; `None` if it cannot be read.
pub fn total(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Raises the totals of inotify so that this many instances can have as much as their limits allow. Memory is limited by
/// the instances' own limits: the kernel counts inotify's for them.
pub(crate) fn raise_inotify_totals(instances: u32) {
    for (file, of_instance) in INOTIFY_TOTALS {
        let needed = of_instance.saturating_mul(instances);
        if total(file).is_some_and(|total| total < u64::from(needed))
            && let Err(error) = fs::write(file, needed.to_string())
        {
            tracing::warn!(file, %error, "failed to raise total of inotify; one instance can use up that of others");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_share_of_limited_totals_and_the_default_of_unlimited_ones() {
        let limits = |signals: &str, messages: &str| {
            AccountLimits::parse(&format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max pending signals       {signals}                96365                signals   \n\
                 Max msgqueue size         {messages}               819200               bytes     \n"
            ))
        };
        let limited = limits("96365", "819200");
        assert_eq!((limited.message_bytes, limited.pending_signals), (102_400, 1505));
        assert!(!limited.is_unlimited);
        let unlimited = limits("unlimited", "unlimited");
        assert_eq!((unlimited.message_bytes, unlimited.pending_signals), (819_200, 8192));
        assert!(unlimited.is_unlimited && !limits("unlimited", "819200").is_unlimited);
        assert!(!AccountLimits::parse("").is_unlimited);
    }
}
