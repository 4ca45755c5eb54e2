//! The embedded queue, of a node that shares no work. Its jobs end with the process: the reconcile loop gives them again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Backlog, Job, Lane, ParkedJob, Queue, QueueError, Receipt, TakenJob, shortened};
use crate::clock::Millis;

/// How long a job may be neither settled nor reported on before it is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(3);

/// Most parked jobs. The oldest is removed for a further one.
const MAX_PARKED: usize = 1_000;

/// The jobs of one process.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    /// Notified when a job may be taken.
    added: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    lanes: HashMap<Lane, LaneJobs>,
    /// The ids of all jobs in the lanes.
    ids: HashSet<String>,
    parked: VecDeque<ParkedJob>,
    last_parked: u64,
}

#[derive(Debug, Default)]
struct LaneJobs {
    /// Number of the last job that was delivered for the first time.
    generation: u64,
    /// Jobs that were never delivered.
    pending: VecDeque<Job>,
    /// Jobs that were delivered, each with the time from which it is delivered again.
    delivered: Vec<DeliveredJob>,
    /// Number of the last receipt.
    last_receipt: u64,
}

#[derive(Debug)]
struct DeliveredJob {
    job: Job,
    deliveries: u32,
    again_at: Instant,
    /// Number of the receipt that settles it; an older one has no effect.
    receipt: u64,
}

struct MemoryReceipt {
    shared: Arc<Shared>,
    lane: Lane,
    receipt: u64,
}

impl LaneJobs {
    /// Delivers a job that is due at `now`. Returns it with its deliveries and the number of its receipt.
    fn deliver(&mut self, now: Instant) -> Option<(Job, u32, u64)> {
        self.last_receipt += 1;
        let (receipt, again_at) = (self.last_receipt, now + ACK_WAIT);
        if let Some(due) = self.delivered.iter_mut().find(|delivered| delivered.again_at <= now) {
            due.deliveries = due.deliveries.saturating_add(1);
            (due.again_at, due.receipt) = (again_at, receipt);
            return Some((due.job.clone(), due.deliveries, receipt));
        }
        let job = self.pending.pop_front()?;
        self.generation += 1;
        self.delivered.push(DeliveredJob { job: job.clone(), deliveries: 1, again_at, receipt });
        Some((job, 1, receipt))
    }

    fn next_due(&self) -> Option<Instant> {
        self.delivered.iter().map(|delivered| delivered.again_at).min()
    }
}

impl Jobs {
    fn add(&mut self, job: &Job) {
        if self.ids.insert(job.id()) {
            self.lanes.entry(job.lane()).or_default().pending.push_back(job.clone());
        }
    }

    fn delivered(&mut self, lane: &Lane, receipt: u64) -> Option<&mut DeliveredJob> {
        self.lanes.get_mut(lane)?.delivered.iter_mut().find(|delivered| delivered.receipt == receipt)
    }

    fn remove(&mut self, lane: &Lane, receipt: u64) -> Option<DeliveredJob> {
        let lane = self.lanes.get_mut(lane)?;
        let at = lane.delivered.iter().position(|delivered| delivered.receipt == receipt)?;
        let removed = lane.delivered.swap_remove(at);
        self.ids.remove(&removed.job.id());
        Some(removed)
    }

    fn park(&mut self, removed: DeliveredJob, error: &str, now: Millis) {
        self.parked.retain(|parked| parked.job != removed.job);
        if self.parked.len() == MAX_PARKED {
            self.parked.pop_front();
        }
        self.last_parked += 1;
        self.parked.push_back(ParkedJob {
            id: self.last_parked,
            job: removed.job,
            error: shortened(error),
            deliveries: removed.deliveries,
            parked_at: now,
        });
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn is_shared(&self) -> bool {
        false
    }

    fn problem(&self) -> Option<String> {
        None
    }

    async fn publish(&self, job: &Job) -> Result<(), QueueError> {
        self.0.jobs.lock().add(job);
        self.0.added.notify_waiters();
        Ok(())
    }

    async fn backlog(&self, lane: &Lane) -> Result<Backlog, QueueError> {
        let jobs = self.0.jobs.lock();
        Ok(jobs.lanes.get(lane).map_or(Backlog::default(), |lane| Backlog {
            generation: lane.generation,
            pending: lane.pending.len(),
            in_progress: lane.delivered.len(),
        }))
    }

    async fn take(&self, lanes: &[Lane], wait: Duration) -> Result<Option<TakenJob>, QueueError> {
        let deadline = Instant::now() + wait;
        loop {
            let mut added = std::pin::pin!(self.0.added.notified());
            added.as_mut().enable();
            let mut next = deadline;
            {
                let (mut jobs, now) = (self.0.jobs.lock(), Instant::now());
                for lane in lanes {
                    let Some(of_lane) = jobs.lanes.get_mut(lane) else { continue };
                    if let Some((job, deliveries, receipt)) = of_lane.deliver(now) {
                        let (shared, lane) = (self.0.clone(), lane.clone());
                        let receipt = Box::new(MemoryReceipt { shared, lane, receipt });
                        return Ok(Some(TakenJob { job, deliveries, receipt }));
                    }
                    next = of_lane.next_due().map_or(next, |due| next.min(due));
                }
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::select! {
                () = added => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn parked(&self) -> Result<Vec<ParkedJob>, QueueError> {
        Ok(self.0.jobs.lock().parked.iter().take(super::MAX_SHOWN).cloned().collect())
    }

    async fn put_back(&self, id: u64) -> Result<bool, QueueError> {
        let mut jobs = self.0.jobs.lock();
        let Some(at) = jobs.parked.iter().position(|parked| parked.id == id) else { return Ok(false) };
        if let Some(parked) = jobs.parked.remove(at) {
            jobs.add(&parked.job);
        }
        drop(jobs);
        self.0.added.notify_waiters();
        Ok(true)
    }
}

#[async_trait]
impl Receipt for MemoryReceipt {
    fn progress_interval(&self) -> Duration {
        ACK_WAIT / 3
    }

    async fn progress(&self) -> Result<(), QueueError> {
        if let Some(delivered) = self.shared.jobs.lock().delivered(&self.lane, self.receipt) {
            delivered.again_at = Instant::now() + ACK_WAIT;
        }
        Ok(())
    }

    async fn done(self: Box<Self>) -> Result<(), QueueError> {
        self.shared.jobs.lock().remove(&self.lane, self.receipt);
        Ok(())
    }

    async fn retry_later(self: Box<Self>, delay: Duration) -> Result<(), QueueError> {
        if let Some(delivered) = self.shared.jobs.lock().delivered(&self.lane, self.receipt) {
            delivered.again_at = Instant::now() + delay;
        }
        // A take in progress may wait for a later time.
        self.shared.added.notify_waiters();
        Ok(())
    }

    async fn park(self: Box<Self>, error: &str, now: Millis) -> Result<(), QueueError> {
        let mut jobs = self.shared.jobs.lock();
        if let Some(removed) = jobs.remove(&self.lane, self.receipt) {
            jobs.park(removed, error, now);
        }
        Ok(())
    }
}
