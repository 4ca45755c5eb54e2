//! The numbers of ready instances, queried once a second for all clients that watch them.
//!
//! Any client may open event streams and the front page. What these show must not cost the store a query each: one task
//! queries the counts while at least one client watches them, and publishes them together with the event that every
//! stream sends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::event_stream::event;
use crate::pool::{Statistics, TemplateStats};
use crate::telemetry::task;

/// Time between two queries of the counts.
const QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// The numbers of ready instances at one moment.
#[derive(Debug)]
pub(super) struct ReadyCounts {
    by_template: HashMap<String, usize>,
    event: Bytes,
}

impl ReadyCounts {
    pub(super) fn new(by_template: HashMap<String, usize>) -> Self {
        let event = event("ready", &json!(by_template));
        Self { by_template, event }
    }

    fn of(stats: Vec<TemplateStats>) -> Self {
        Self::new(stats.into_iter().map(|stats| (stats.template, stats.stats.ready)).collect())
    }

    /// Returns the number of ready instances of a template over all nodes.
    pub(super) fn of_template(&self, name: &str) -> usize {
        self.by_template.get(name).copied().unwrap_or(0)
    }

    /// Returns the event that shows these counts. All streams share its bytes.
    pub(super) fn event(&self) -> Bytes {
        self.event.clone()
    }
}

/// The counts as they were queried last; `None` before the first query since clients watch.
pub(super) type WatchedCounts = watch::Receiver<Option<Arc<ReadyCounts>>>;

/// Queries the counts for all that watch them.
pub(super) struct ReadyTicker {
    statistics: Arc<Statistics>,
    latest: watch::Sender<Option<Arc<ReadyCounts>>>,
    /// The task that queries, while clients watch. Locked where a client begins to watch and where the task decides
    /// whether to end, so that no client waits for a task that has ended.
    task: Mutex<Option<JoinHandle<()>>>,
    shutdown: CancellationToken,
}

impl ReadyTicker {
    /// Creates a ticker that queries nothing yet. `shutdown` ends its task.
    pub(super) fn new(statistics: Arc<Statistics>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { statistics, latest: watch::Sender::new(None), task: Mutex::default(), shutdown })
    }

    /// Watches the counts. The receiver has a change to report: the present counts, or soon the first.
    pub(super) fn watch(self: &Arc<Self>) -> WatchedCounts {
        let mut task = self.task.lock();
        let mut counts = self.latest.subscribe();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(task::spawn("ready counts", self.clone().run()));
        }
        counts.mark_changed();
        counts
    }

    async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(QUERY_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.shutdown.cancelled() => return,
            }
            if self.ends_unwatched() {
                return;
            }
            // While the store is away, the last counts stay.
            let Ok(stats) = self.statistics.of_templates().await else { continue };
            let counts = ReadyCounts::of(stats);
            self.latest.send_if_modified(|latest| {
                let is_new = latest.as_ref().is_none_or(|known| known.by_template != counts.by_template);
                if is_new {
                    *latest = Some(Arc::new(counts));
                }
                is_new
            });
        }
    }

    /// Returns whether no client watches the counts, so that the task ends.
    fn ends_unwatched(&self) -> bool {
        let mut task = self.task.lock();
        let is_unwatched = self.latest.receiver_count() == 0;
        if is_unwatched {
            *task = None;
            self.latest.send_replace(None);
        }
        is_unwatched
    }
}
