//! The memory and the descriptors of a server, and the rule by which they count as flat.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// What the median may grow by beside a sixteenth of itself. Allocators keep memory and pools keep connections.
const MEMORY_SLACK_KIB: usize = 8 * 1024;
const DESCRIPTOR_SLACK: usize = 24;
/// The shortest warm-up, in samples: 30 s. Baking frees much memory, and the first requests of each kind take it again.
const WARM_UP: usize = 60;

/// One sample of a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Resident memory in KiB.
    pub(super) memory: usize,
    pub(super) descriptors: usize,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        }
    }
}

/// Samples a process until `done` is cancelled.
pub(super) async fn sample(pid: u32, done: &CancellationToken) -> Vec<Usage> {
    let mut samples = Vec::new();
    let sampling = async {
        loop {
            samples.push(Usage::of(pid));
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    };
    done.run_until_cancelled(sampling).await;
    samples
}

fn median(values: impl Iterator<Item = usize>) -> usize {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Returns an error unless memory and descriptors are flat: the first 30 seconds are the warm-up, or the first quarter if
/// that is longer; of the rest, the median of the last third is at most a sixteenth and a slack above the median of the
/// first third.
///
/// # Panics
///
/// If there are fewer than 66 samples.
pub(super) fn check_flat(samples: &[Usage]) -> Result<String, String> {
    let samples = &samples[WARM_UP.max(samples.len() / 4)..];
    assert!(samples.len() >= 6, "too few samples after the warm-up");
    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let medians =
        |value: fn(&Usage) -> usize| (median(first.iter().map(value)), median(last.iter().map(value)));
    let (memory, descriptors) = (medians(|usage| usage.memory), medians(|usage| usage.descriptors));
    let text = format!("memory in KiB {memory:?}, descriptors {descriptors:?} (first third, last third)");
    let is_flat = |(first, last): (usize, usize), slack| last <= first + first / 16 + slack;
    if is_flat(memory, MEMORY_SLACK_KIB) && is_flat(descriptors, DESCRIPTOR_SLACK) {
        Ok(text)
    } else {
        Err(text)
    }
}

#[test]
fn a_leak_is_not_flat_and_noise_and_warm_up_are() {
    let samples = |memory: fn(usize) -> usize, descriptors: fn(usize) -> usize| -> Vec<_> {
        (0..1200).map(|n| Usage { memory: memory(n), descriptors: descriptors(n) }).collect()
    };
    let warm_up = |n: usize| 100_000 + 100 * n.min(290);
    assert!(check_flat(&samples(|_| 100_000, |n| 100 + n * 7 % 60)).is_ok(), "noise");
    assert!(check_flat(&samples(warm_up, |_| 100)).is_ok(), "warm-up");
    let short: Vec<_> =
        (0..120).map(|n| Usage { memory: 90_000 + 500 * n.min(55), descriptors: 100 }).collect();
    assert!(check_flat(&short).is_ok(), "warm-up of a short run");
    assert!(check_flat(&samples(|n| 100_000 + 32 * n, |_| 100)).is_err(), "64 KiB in a second");
    assert!(check_flat(&samples(|_| 100_000, |n| 100 + n / 16)).is_err(), "one descriptor in eight seconds");
}
