//! What this node keeps of each template, besides the records of its instances.

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
use super::supply::bake_state::BakeState;
use super::supply::capacity::ObservedMemory;
use crate::runtime::StartMethod;
use crate::template::{PoolSizes, Template, Templates};

/// Recent provisioning times of which the median is taken.
const RECENT_TIMES: usize = 15;

/// The pool of one template on this node.
#[derive(Debug)]
pub(super) struct TemplatePool {
    template: ArcSwap<Template>,
    /// Whether the template is configured at present.
    is_configured: AtomicBool,
    /// Changes with each configuration.
    reconfigured: watch::Sender<()>,
    /// Provisioning attempts in progress.
    pub(super) attempts: AtomicUsize,
    /// Whether a refill was begun and has not reached the target yet.
    pub(super) is_refilling: AtomicBool,
    /// The visitors who wait for an instance.
    pub(super) wait_queue: WaitQueue,
    backoff: Mutex<Backoff>,
    /// Most instances for which the host's memory has room, as it was found last.
    memory_capacity: AtomicUsize,
    /// The memory that the template's instances were seen to take.
    pub(super) observed_memory: Mutex<ObservedMemory>,
    /// The progress of its checkpoints.
    pub(super) bake_state: BakeState,
    times: Mutex<ProvisionTimes>,
    /// When an instance was last ended so that another takes its place.
    replaced_at: Mutex<Option<Instant>>,
    /// Until when one more ready instance than the target is wanted.
    surplus_until: Mutex<Option<Instant>>,
    /// Whether fewer instances than the minimum were ready when that was last looked at. It is logged when it becomes
    /// so.
    pub(super) is_low: AtomicBool,
}

/// How long recent provisioning attempts took.
#[derive(Debug)]
struct ProvisionTimes {
    /// How all of these instances were started, and how the next one will be.
    method: StartMethod,
    recent: VecDeque<Duration>,
}

impl TemplatePool {
    fn new(template: Arc<Template>) -> Self {
        Self {
            template: ArcSwap::new(template),
            is_configured: AtomicBool::new(true),
            reconfigured: watch::Sender::new(()),
            attempts: AtomicUsize::new(0),
            is_refilling: AtomicBool::new(true),
            wait_queue: WaitQueue::new(),
            backoff: Mutex::default(),
            // No room before the memory was measured.
            memory_capacity: AtomicUsize::new(0),
            observed_memory: Mutex::default(),
            bake_state: BakeState::default(),
            times: Mutex::new(ProvisionTimes { method: StartMethod::Cold, recent: VecDeque::new() }),
            replaced_at: Mutex::default(),
            surplus_until: Mutex::default(),
            // A new pool is low until it is filled, which is not worth a log line.
            is_low: AtomicBool::new(true),
        }
    }

    /// Returns the template as it was configured last.
    pub(super) fn template(&self) -> Arc<Template> {
        self.template.load_full()
    }

    /// Returns the sizes of the pool: the template's, with the capacity limited to the room in memory where the
    /// template says so.
    pub(super) fn sizes(&self) -> PoolSizes {
        let sizes = self.template().pool;
        let room =
            if sizes.limited_by_memory { self.memory_capacity.load(Ordering::Acquire) } else { usize::MAX };
        PoolSizes { max: sizes.max.min(room), ..sizes }
    }

    /// Returns how many provisioning attempts are in progress.
    pub(super) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Acquire)
    }

    /// Returns whether an instance may be ended at `now` so that another takes its place, which is so once in an
    /// `interval`; the caller must do so then.
    pub(super) fn may_replace(&self, now: Instant, interval: Duration) -> bool {
        let mut replaced_at = self.replaced_at.lock();
        let may = replaced_at.is_none_or(|at| now >= at + interval);
        if may {
            *replaced_at = Some(now);
        }
        may
    }

    /// Has the pool filled up to its target at once.
    pub(super) fn refill(&self) {
        self.is_refilling.store(true, Ordering::Release);
    }

    /// Has one ready instance more than the target made and kept, until that time.
    pub(super) fn want_surplus(&self, until: Instant) {
        *self.surplus_until.lock() = Some(until);
    }

    /// Returns how many ready instances more than the target are wanted at `now`.
    pub(super) fn surplus(&self, now: Instant) -> usize {
        usize::from(self.surplus_until.lock().is_some_and(|until| now < until))
    }

    /// Sets for how many instances the memory has room. Returns the number before.
    pub(super) fn set_memory_capacity(&self, capacity: usize) -> usize {
        self.memory_capacity.swap(capacity, Ordering::AcqRel)
    }

    /// Returns whether the template is configured at present.
    pub(super) fn is_configured(&self) -> bool {
        self.is_configured.load(Ordering::Acquire)
    }

    /// Returns whether the present configuration wants an instance of this revision.
    pub(super) fn wants(&self, revision: u64) -> bool {
        self.is_configured() && self.template.load().revision == revision
    }

    /// Waits until the configuration no longer wants an instance of this revision.
    pub(super) async fn outdated(&self, revision: u64) {
        let mut reconfigured = self.reconfigured.subscribe();
        while self.wants(revision) {
            // Cannot fail: the sender belongs to this pool.
            let _ = reconfigured.changed().await;
        }
    }

    /// Notes that an attempt which started the app by `method` succeeded after `took`.
    pub(super) fn record_success(&self, method: StartMethod, took: Duration) {
        self.backoff.lock().reset();
        let mut times = self.times.lock();
        if method == times.method {
            if times.recent.len() == RECENT_TIMES {
                times.recent.pop_front();
            }
            times.recent.push_back(took);
        }
    }

    /// Notes how instances will be started from now on. Only the times of such starts count: a restore says nothing
    /// about the time of a cold start, and the reverse.
    pub(super) fn expect_start_method(&self, method: StartMethod) {
        let mut times = self.times.lock();
        if method != times.method {
            *times = ProvisionTimes { method, recent: VecDeque::new() };
        }
    }

    /// Returns how instances will be started.
    pub(super) fn expected_start_method(&self) -> StartMethod {
        self.times.lock().method
    }

    /// Notes that an attempt failed.
    pub(super) fn record_failure(&self, why: String) {
        self.backoff.lock().record_failure(Instant::now(), why);
    }

    /// Forgets failed attempts: the next one is made in another way.
    pub(super) fn forget_failures(&self) {
        self.backoff.lock().reset();
    }

    /// Returns the time until the next attempt may begin; `None` when it may begin now.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.backoff.lock().remaining(Instant::now())
    }

    /// Returns why the last attempt failed; `None` after a success.
    pub(super) fn problem(&self) -> Option<String> {
        self.backoff.lock().why().map(str::to_owned)
    }

    /// Returns the median time of recent attempts that used the expected start method; `None` before the first.
    pub(super) fn median_time(&self) -> Option<Duration> {
        let mut times: Vec<_> = self.times.lock().recent.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

/// The configured templates, and the pools of all that were configured since the start, by name.
#[derive(Debug)]
pub(super) struct TemplatePools {
    configured: ArcSwap<Templates>,
    pools: papaya::HashMap<Arc<str>, Arc<TemplatePool>>,
}

impl TemplatePools {
    /// Creates the pools of the configured templates.
    pub(super) fn new(templates: Templates) -> Self {
        let templates = Arc::new(templates);
        let new = Self { configured: ArcSwap::new(templates.clone()), pools: papaya::HashMap::default() };
        new.adopt_pools(&templates);
        new
    }

    /// Returns the templates that are configured at present.
    pub(super) fn configured(&self) -> Arc<Templates> {
        self.configured.load_full()
    }

    /// Takes over the configured templates. The pools of all other templates are kept, but no longer filled.
    pub(super) fn adopt(&self, templates: Templates) {
        self.adopt_pools(&templates);
        self.configured.store(Arc::new(templates));
    }

    fn adopt_pools(&self, templates: &Templates) {
        let pools = self.pools.pin();
        for pool in pools.values() {
            let is_configured = templates.get(pool.template().name.as_str()).is_some();
            pool.is_configured.store(is_configured, Ordering::Release);
        }
        for template in templates.iter() {
            match pools.get(template.name.as_str()) {
                Some(pool) => {
                    let is_revised = pool.template().revision != template.revision;
                    pool.template.store(template.clone());
                    if is_revised {
                        // The new revision may have mended what made the old one fail.
                        pool.backoff.lock().reset();
                        pool.bake_state.reset();
                        pool.times.lock().recent.clear();
                        // Its instances may take another amount of memory.
                        *pool.observed_memory.lock() = ObservedMemory::default();
                    }
                }
                None => {
                    let name = template.name.as_str().into();
                    pools.insert(name, Arc::new(TemplatePool::new(template.clone())));
                }
            }
        }
        for pool in pools.values() {
            pool.reconfigured.send_replace(());
        }
    }

    /// Returns the pool of the template `name`, if that was configured since the start.
    pub(super) fn get(&self, name: &str) -> Option<Arc<TemplatePool>> {
        self.pools.pin().get(name).cloned()
    }

    /// Returns all pools, those of removed templates too.
    pub(super) fn all(&self) -> Vec<Arc<TemplatePool>> {
        self.pools.pin().values().cloned().collect()
    }

    /// Marks each pool to be filled up to its target at once.
    pub(super) fn refill_all(&self) {
        for pool in self.all() {
            pool.is_refilling.store(true, Ordering::Release);
        }
    }
}
