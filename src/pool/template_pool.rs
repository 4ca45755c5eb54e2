//! What this server remembers of each template besides its instances.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::claim::wait_queue::WaitQueue;
use super::supply::backoff::Backoff;
use super::supply::bake::BakeState;
use super::supply::capacity::Observed;
use crate::runtime::StartMethod;
use crate::template::{PoolSizes, Template, Templates};

/// How many recent provisioning times the median is taken of.
const REMEMBERED: usize = 15;

/// One template's memory.
#[derive(Debug)]
pub(crate) struct TemplatePool {
    template: ArcSwap<Template>,
    /// Whether the template is (still) in the configuration.
    kept: AtomicBool,
    /// Told of each new configuration.
    adopted: watch::Sender<()>,
    /// Attempts under way.
    pub(crate) making: AtomicUsize,
    /// Whether a refill was begun and has not reached the target yet.
    pub(crate) refilling: AtomicBool,
    /// Visitors who wait.
    pub(crate) line: WaitQueue,
    backoff: Mutex<Backoff>,
    /// Most instances for which the host's memory has room, as it was found last.
    room: AtomicUsize,
    /// What its instances take of it.
    pub(super) observed: Mutex<Observed>,
    /// Its golden checkpoints.
    pub(crate) bakery: BakeState,
    times: Mutex<Times>,
    /// Whether the operator was told that fewer than the minimum are ready.
    pub(crate) low: AtomicBool,
}

/// How long recent attempts took.
#[derive(Debug)]
struct Times {
    /// The way in which all of them were made, and the next will be.
    method: StartMethod,
    recent: VecDeque<Duration>,
}

impl TemplatePool {
    fn new(template: Arc<Template>) -> Self {
        Self {
            template: ArcSwap::new(template),
            kept: AtomicBool::new(true),
            adopted: watch::Sender::new(()),
            making: AtomicUsize::new(0),
            refilling: AtomicBool::new(true),
            line: WaitQueue::new(),
            backoff: Mutex::default(),
            // Before anything is known of the memory, none.
            room: AtomicUsize::new(0),
            observed: Mutex::default(),
            bakery: BakeState::default(),
            times: Mutex::new(Times { method: StartMethod::Cold, recent: VecDeque::new() }),
            // A pool that was never full is being filled, and that is no news.
            low: AtomicBool::new(true),
        }
    }

    /// The template as it was last configured.
    pub(crate) fn template(&self) -> Arc<Template> {
        self.template.load_full()
    }

    /// How many instances to keep: as the template says, and no more than the memory has room for where that counts.
    pub(crate) fn sizes(&self) -> PoolSizes {
        let sizes = self.template().pool;
        let room = if sizes.by_memory { self.room.load(Ordering::Acquire) } else { usize::MAX };
        PoolSizes { max: sizes.max.min(room), ..sizes }
    }

    /// From now on the memory has room for so many. Returns for how many it had before.
    pub(super) fn has_room(&self, room: usize) -> usize {
        self.room.swap(room, Ordering::AcqRel)
    }

    /// Whether the template is (still) in the configuration.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// Whether an instance of this revision is (still) what the configuration wants.
    pub(crate) fn wants(&self, revision: u64) -> bool {
        self.is_kept() && self.template.load().revision == revision
    }

    /// Done when an instance of this revision is no longer what the configuration wants.
    pub(crate) async fn outdated(&self, revision: u64) {
        let mut adopted = self.adopted.subscribe();
        while self.wants(revision) {
            // The sender is ours, so it is there.
            let _ = adopted.changed().await;
        }
    }

    /// An attempt worked in this way and took this long.
    pub(crate) fn succeeded(&self, how: StartMethod, took: Duration) {
        self.backoff.lock().succeeded();
        let mut times = self.times.lock();
        if how == times.method {
            if times.recent.len() == REMEMBERED {
                times.recent.pop_front();
            }
            times.recent.push_back(took);
        }
    }

    /// From now on instances will be made in this way, and only those tell how long it takes: a copy of a checkpoint
    /// says nothing of a start from nothing, and the other way round.
    pub(crate) fn expect(&self, how: StartMethod) {
        let mut times = self.times.lock();
        if how != times.method {
            *times = Times { method: how, recent: VecDeque::new() };
        }
    }

    /// In which way instances will be made.
    pub(crate) fn expected(&self) -> StartMethod {
        self.times.lock().method
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, why: String) {
        self.backoff.lock().failed(Instant::now(), why);
    }

    /// Time until the next attempt may be made.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.backoff.lock().remaining(Instant::now())
    }

    /// Why the last attempt failed, until one works.
    pub(crate) fn problem(&self) -> Option<String> {
        self.backoff.lock().why().map(str::to_owned)
    }

    /// The median time to ready of instances made in the expected way; `None` before the first.
    pub(crate) fn median(&self) -> Option<Duration> {
        let mut times: Vec<_> = self.times.lock().recent.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

/// All templates ever configured since the start, by name.
#[derive(Debug, Default)]
pub(crate) struct TemplatePools(papaya::HashMap<Arc<str>, Arc<TemplatePool>>);

impl TemplatePools {
    /// Takes over the configured templates; the others are no longer kept.
    pub(crate) fn adopt(&self, templates: &Templates) {
        let keepers = self.0.pin();
        for keeper in keepers.values() {
            let kept = templates.get(keeper.template().name.as_str()).is_some();
            keeper.kept.store(kept, Ordering::Release);
        }
        for template in templates.iter() {
            match keepers.get(template.name.as_str()) {
                Some(keeper) => {
                    let revised = keeper.template().revision != template.revision;
                    keeper.template.store(template.clone());
                    if revised {
                        // What kept the old version from warming may be mended in the new one.
                        keeper.backoff.lock().succeeded();
                        keeper.bakery.forget_failures();
                        keeper.times.lock().recent.clear();
                        // Others may take more or less.
                        *keeper.observed.lock() = Observed::default();
                    }
                }
                None => {
                    keepers
                        .insert(template.name.as_str().into(), Arc::new(TemplatePool::new(template.clone())));
                }
            }
        }
        for keeper in keepers.values() {
            keeper.adopted.send_replace(());
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<TemplatePool>> {
        self.0.pin().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<TemplatePool>> {
        self.0.pin().values().cloned().collect()
    }

    /// Makes every pool fill up to its target without waiting for its interval.
    pub(crate) fn refill_all(&self) {
        for keeper in self.all() {
            keeper.refilling.store(true, Ordering::Release);
        }
    }
}
