//! The queue: work between nodes.
//!
//! The store is the truth, and a job is a hint that the reconcile loop can give again: which instances are missing is
//! read from the store, and so is, before a job is done, whether the instance is still wanted. So a job that is lost,
//! delivered twice or restored from an old disk costs seconds, never an instance.
//!
//! | file | content |
//! |---|---|
//! | `job.rs` | [`Job`]: what is to be done, its id, its message; pure |
//! | `memory.rs` | the embedded queue of a node that shares no work |
//! | `jetstream/` | a queue that nodes share: JetStream of NATS |
//!
//! A job that was taken must be settled: done, retried later, or parked with its error. One that is not, because its
//! worker crashed, is delivered again after the queue's acknowledgement time, which reports of progress extend.

pub mod jetstream;
mod job;
pub mod memory;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use job::{Backlog, Job, Lane, MalformedJob};

use crate::clock::Millis;

/// Most parked jobs that are listed.
const MAX_SHOWN: usize = 100;

/// Most characters of the error with which a job is parked.
pub const MAX_ERROR: usize = 1_000;

/// The queue did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("queue unavailable: {0}")]
pub struct QueueError(pub String);

/// Jobs that wait until a node takes them. Each call ends within seconds, whatever the queue's server does.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Returns whether other nodes take jobs of this queue too.
    fn is_shared(&self) -> bool;

    /// Returns why the queue cannot be used at present; `None` when it works. Asks nothing of the network.
    fn problem(&self) -> Option<String>;

    /// Adds a job. When this returns, the queue keeps it through a crash. A job whose id was added within the duplicate
    /// window is not added again, which is no error.
    ///
    /// # Errors
    /// The queue did not confirm the job in time. It may have it all the same.
    async fn publish(&self, job: &Job) -> Result<(), QueueError>;

    /// Returns how many jobs a lane has.
    ///
    /// # Errors
    /// The queue did not answer in time.
    async fn backlog(&self, lane: &Lane) -> Result<Backlog, QueueError>;

    /// Takes the next job of any of these lanes. Waits for one up to `wait`, and returns `None` when there was none. To
    /// cancel the call loses no job: one that was taken for it is delivered again.
    ///
    /// # Errors
    /// The queue did not answer in time.
    async fn take(&self, lanes: &[Lane], wait: Duration) -> Result<Option<TakenJob>, QueueError>;

    /// Returns the parked jobs, the oldest first, at most a hundred.
    ///
    /// # Errors
    /// The queue did not answer in time.
    async fn parked(&self) -> Result<Vec<ParkedJob>, QueueError>;

    /// Puts a parked job back into its lane, as if it were new. Returns false when there is none with this id.
    ///
    /// # Errors
    /// The queue did not confirm it in time. The job is still parked, or in its lane, or both.
    async fn put_back(&self, id: u64) -> Result<bool, QueueError>;
}

/// A queue, and how much a node takes from it.
#[derive(Clone)]
pub struct QueueAccess {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Most jobs that the node does at a time. At least one.
    pub workers: usize,
}

/// A job that a worker has taken and must settle.
pub struct TakenJob {
    /// What is to be done.
    pub job: Job,
    /// How often the job was delivered, this time included.
    pub deliveries: u32,
    /// By which the worker settles it.
    pub receipt: Box<dyn Receipt>,
}

/// By which a worker settles the job that it took.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// Returns the time between two reports of progress that keeps the job from being delivered again.
    fn progress_interval(&self) -> Duration;

    /// Reports that the worker goes on.
    ///
    /// # Errors
    /// The report was not sent.
    async fn progress(&self) -> Result<(), QueueError>;

    /// Removes the job. Its effect must be in the store.
    ///
    /// # Errors
    /// The queue did not confirm it in time: the job may be delivered again.
    async fn done(self: Box<Self>) -> Result<(), QueueError>;

    /// Has the job delivered again after `delay`.
    ///
    /// # Errors
    /// The request was not sent: the job is delivered again after the acknowledgement time.
    async fn retry_later(self: Box<Self>, delay: Duration) -> Result<(), QueueError>;

    /// Parks the job with its error, of which the first [`MAX_ERROR`] characters are kept. A job that was parked before
    /// is parked once, with the later error.
    ///
    /// # Errors
    /// The queue did not confirm it in time: the job may be delivered again.
    async fn park(self: Box<Self>, error: &str, now: Millis) -> Result<(), QueueError>;
}

/// A job that failed too often, and waits for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedJob {
    /// By which [`Queue::put_back`] finds it.
    pub id: u64,
    /// What was to be done.
    pub job: Job,
    /// Why it failed last.
    pub error: String,
    /// How often it was delivered.
    pub deliveries: u32,
    /// When it was parked.
    pub parked_at: Millis,
}

/// Returns the first [`MAX_ERROR`] characters of an error.
fn shortened(error: &str) -> String {
    error.chars().take(MAX_ERROR).collect()
}
