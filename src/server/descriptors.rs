//! The limit of open files: raised at start, and how many connections fit into it.
//!
//! Most systems start programs with a soft limit of 1024, since programs that call `select` break on more, and with a
//! hard limit that is much higher. The server raises its own soft limit. Apps of the process runtime get the original
//! one back. The tools that the server runs (`nft`, `cp`, `criu --version`) inherit the raised limit: no descriptor of
//! the server reaches them, so theirs stay below 1024. Containers get theirs from containerd.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::client_connections::MAX_LOCAL_SLOTS;

/// Most refused connections to which the response 503 is being sent.
pub(super) const MAX_REFUSALS: usize = 32;

/// Most idle connections to apps, over all instances, where the limit has room for them.
const MAX_IDLE_UPSTREAMS: usize = 4096;

/// What a client's connection costs: itself, and one to the app.
const PER_CONNECTION: usize = 2;
/// What an instance costs the server: pipes to and from its guardian, the guardian itself, and its port.
const PER_INSTANCE: usize = 5;
/// The least that the store, the runtime, the log and files keep.
const MIN_RESERVE: usize = 64;

/// The soft limit of open files, before and after the server raised it. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenFileLimits {
    /// What the server was started with, and what apps get.
    pub(super) original: Option<u64>,
    /// What the server has.
    pub(super) raised: Option<u64>,
}

/// Raises the soft limit of open files of this process to the hard limit.
pub(super) fn raise() -> OpenFileLimits {
    let Rlimit { current: original, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => OpenFileLimits { original, raised: maximum },
        Err(error) => {
            tracing::warn!(%error, "failed to raise the limit of open files");
            OpenFileLimits { original, raised: original }
        }
    }
}

/// Returns the highest limit of open files that this process may have; `None` if there is none.
pub(crate) fn hard_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Returns the most connections of clients at a time: `wanted`, or fewer if the server may open only `limit` files and
/// runs up to `instances` instances.
pub(crate) fn connections_within(limit: Option<u64>, wanted: usize, instances: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let free = limit.saturating_sub(reserve(limit)).saturating_sub(instances.saturating_mul(PER_INSTANCE));
    // The server serves some clients, however many instances are allowed: they rarely all run.
    (free / PER_CONNECTION).max(limit / 8).clamp(1, wanted.max(1))
}

/// Returns the smallest limit of open files into which `wanted` connections fit.
pub(crate) fn limit_for(wanted: usize, instances: usize) -> u64 {
    let fits = |limit: u64| connections_within(Some(limit), wanted, instances) >= wanted;
    let (mut low, mut high) = (0, 1 << 40);
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Descriptors that no visitor's connection uses: of the store, the runtime and the log, idle connections to apps,
/// refusals in flight, and operators.
fn reserve(limit: usize) -> usize {
    MIN_RESERVE.max(limit / 8)
        + idle_upstreams(Some(limit as u64))
        + MAX_REFUSALS
        + MAX_LOCAL_SLOTS * PER_CONNECTION
}

/// Returns the most idle connections to apps that fit into the limit; `None` is no limit.
pub(super) fn idle_upstreams(limit: Option<u64>) -> usize {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    (limit / 16).min(MAX_IDLE_UPSTREAMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_maximum_of_connections_fits_the_limit_of_open_files() {
        for (limit, wanted, instances, connections) in [
            (Some(1_048_576), 10_000, 20, 10_000),
            (Some(524_288), 10_000, 20, 10_000),
            (Some(20_000), 10_000, 20, 8_043),
            (Some(1024), 10_000, 20, 334),
            (Some(256), 10_000, 20, 32),
            (Some(256), 5, 20, 5),
            (Some(1), 10_000, 20, 1),
            (Some(1024), 10_000, usize::MAX, 128),
            (None, 10_000, 20, 10_000),
        ] {
            assert_eq!(connections_within(limit, wanted, instances), connections, "{limit:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn the_limit_that_a_log_line_names_is_the_smallest_that_suffices(
            wanted in 2_usize..1_000_000, instances in 0_usize..1000,
        ) {
            let limit = limit_for(wanted, instances);
            prop_assert_eq!(connections_within(Some(limit), wanted, instances), wanted);
            prop_assert!(connections_within(Some(limit - 1), wanted, instances) < wanted);
        }

        #[test]
        fn connections_never_use_the_reserve(limit in 1024_u64..2_000_000, instances in 0_usize..50) {
            let connections = connections_within(Some(limit), 1_000_000, instances) as u64;
            prop_assert!(connections * 2 + limit / 8 <= limit);
        }
    }
}
