//! What came of a job of the queue.

/// What came of a job.
#[derive(Debug)]
pub(in crate::pool) enum JobOutcome {
    /// Its effect is in the store, or it is not wanted here any more: if it is wanted elsewhere, it is planned again.
    Done,
    /// This process ends before it is done.
    Interrupted,
    /// It failed, for this reason.
    Failed(String),
}
