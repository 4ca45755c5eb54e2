//! A store under test with helpers that change it and checks of its invariants.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::instance::StateCounts;
use try_it_now::instance::{
    ClaimToken, Endpoint, Instance, InstanceId, NodeId, RateLimits, State, TemplateName, check, check_step,
};
use try_it_now::store::{Claim, Claimed, Cursor, RouteChange, RouteEvents, Store, StoreError, Visitor};

use super::Backend;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const TTL: Duration = Duration::from_secs(60);
pub(crate) const NO_LIMITS: RateLimits = RateLimits::NONE;
/// The templates and nodes that the tests use.
pub(crate) const TEMPLATES: [&str; 2] = ["shop", "blog"];
pub(crate) const NODES: [&str; 3] = ["a", "b", "c"];
/// The longest time that a follower waits for an event. Only a lost wake-up takes that long.
pub(crate) const WAKE_UP_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct StoreFixture {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) store: Arc<dyn Store>,
    /// Each record as it was at the last check.
    seen: parking_lot::Mutex<HashMap<InstanceId, Instance>>,
}

pub(crate) fn template(name: &str) -> TemplateName {
    TemplateName::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// Returns a claim of an instance of `shop`, by node `a`, for a visitor without limits.
pub(crate) fn new_claim() -> Claim {
    Claim {
        template: template("shop"),
        token: ClaimToken::random(),
        node: node("a"),
        visitor: Visitor::new("192.0.2.1"),
        limits: NO_LIMITS,
        ttl: TTL,
    }
}

pub(crate) fn ids(records: &[Instance]) -> Vec<InstanceId> {
    let mut ids: Vec<_> = records.iter().map(|record| record.id().clone()).collect();
    ids.sort();
    ids
}

pub(crate) fn sorted(mut records: Vec<Instance>) -> Vec<Instance> {
    records.sort_by(|a, b| a.id().cmp(b.id()));
    records
}

impl StoreFixture {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let store = backend.store();
        Self { backend, store, seen: Default::default() }
    }

    pub(crate) async fn advance(&self, by: Duration) {
        self.backend.advance(by).await;
    }

    pub(crate) async fn now(&self) -> Millis {
        self.backend.now().await
    }

    pub(crate) async fn get(&self, id: &InstanceId) -> Option<Instance> {
        self.store.get(id).await.unwrap()
    }

    /// Returns the name of the state as readers see it, `gone` if there is no record.
    pub(crate) async fn state(&self, id: &InstanceId) -> &'static str {
        self.get(id).await.map_or("gone", |record| record.state().name())
    }

    /// Returns an endpoint that no other instance has.
    pub(crate) fn endpoint(&self) -> Endpoint {
        // Shared by all fixtures, because several may use one store.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let [_, a, b, c] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        ([10, a, b, c], 4000).into()
    }

    pub(crate) async fn add_warming(&self, of: &str, on: &str) -> InstanceId {
        let id = InstanceId::random(&template(of));
        let record = Instance::warming(id.clone(), node(on), 1, self.now().await);
        self.store.insert(record).await.unwrap();
        id
    }

    pub(crate) async fn add_ready(&self, of: &str, on: &str) -> InstanceId {
        let id = self.add_warming(of, on).await;
        self.store.offer(&id, self.endpoint()).await.unwrap();
        id
    }

    pub(crate) async fn claim(&self, claim: &Claim) -> Claimed {
        self.store.claim(claim).await.unwrap()
    }

    /// Claims and returns the instance. Panics if none is granted.
    pub(crate) async fn granted(&self, claim: &Claim) -> Instance {
        let claimed = self.claim(claim).await;
        claimed.instance().unwrap_or_else(|| panic!("expected an instance: {claimed:?}")).clone()
    }

    /// Undoes a claim. Only this step leads back from assigned to ready, so only here the record of the last check is
    /// replaced.
    pub(crate) async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError> {
        let back = self.store.undo_claim(claim).await?;
        self.seen.lock().insert(back.id().clone(), back.clone());
        Ok(back)
    }

    /// Confirms that the answers of these claims were delivered.
    pub(crate) async fn confirm(&self, ids: &[InstanceId]) {
        self.store.confirm(ids).await.unwrap();
    }

    /// Adds an instance of `shop` and assigns it for [`TTL`].
    pub(crate) async fn add_assigned(&self) -> Instance {
        self.add_ready("shop", "a").await;
        self.granted(&new_claim()).await
    }

    pub(crate) async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max: Duration,
    ) -> Result<Instance, StoreError> {
        self.store.extend(id, by, max, NO_LIMITS).await
    }

    pub(crate) async fn sweep(&self) -> Vec<Instance> {
        self.store.sweep(usize::MAX).await.unwrap()
    }

    pub(crate) async fn all(&self) -> Vec<Instance> {
        let mut all = Vec::new();
        for name in NODES {
            all.extend(self.store.list(&node(name)).await.unwrap());
        }
        all
    }

    pub(crate) async fn counts(&self, of: &str) -> (usize, usize, usize) {
        let StateCounts { warming, ready, assigned } = self.store.counts(&template(of), None).await.unwrap();
        (warming, ready, assigned)
    }

    /// Returns the events after `cursor` that exist now.
    pub(crate) async fn events(&self, cursor: Cursor) -> Vec<(Cursor, RouteChange)> {
        match self.store.route_events(cursor, Duration::ZERO).await.unwrap() {
            RouteEvents::Changes(changes) => changes,
            RouteEvents::Gap => panic!("a gap after {cursor:?}"),
        }
    }

    /// Applies all events after `cursor` to `table` and advances the cursor.
    pub(crate) async fn follow(&self, table: &mut HashMap<InstanceId, Instance>, cursor: &mut Cursor) {
        loop {
            let changes = self.events(*cursor).await;
            if changes.is_empty() {
                return;
            }
            for (at, change) in changes {
                assert!(at > *cursor, "cursors increase: {at:?} after {cursor:?}");
                *cursor = at;
                change.apply(table);
            }
        }
    }

    pub(crate) async fn snapshot(&self) -> (HashMap<InstanceId, Instance>, Cursor) {
        let (records, cursor) = self.store.routes().await.unwrap();
        let count = records.len();
        let table: HashMap<_, _> = records.into_iter().map(|record| (record.id().clone(), record)).collect();
        assert_eq!(table.len(), count, "a snapshot has each instance once");
        (table, cursor)
    }

    /// Checks the invariants of all records, the transitions since the last check, and that all other readers of the
    /// store agree with the records. Nothing else may use the store meanwhile.
    pub(crate) async fn check_invariants(&self) {
        let (all, now) = (self.all().await, self.now().await);
        assert_eq!(check(&all), Ok(()));
        let records: HashMap<_, _> = all.into_iter().map(|record| (record.id().clone(), record)).collect();
        for (id, before) in self.seen.lock().iter() {
            assert_eq!(check_step(before, records.get(id), now), Ok(()));
        }
        for record in records.values() {
            assert_eq!(self.get(record.id()).await.as_ref(), Some(record));
        }
        let (table, _) = self.snapshot().await;
        let routed = |r: &&Instance| matches!(r.state(), State::Assigned { .. } | State::Expired { .. });
        let expected: HashMap<_, _> =
            records.values().filter(routed).map(|r| (r.id().clone(), r.clone())).collect();
        assert_eq!(table, expected, "routes exist for the assigned and the expired instances");
        for name in TEMPLATES {
            let (mut warming, mut ready, mut assigned, mut expired) = (0, 0, 0, 0);
            for record in records.values().filter(|record| record.id().template() == name) {
                match record.state() {
                    State::Warming => warming += 1,
                    State::Ready { .. } => ready += 1,
                    State::Assigned { .. } => assigned += 1,
                    State::Expired { .. } => expired += 1,
                }
            }
            let counts = self.counts(name).await;
            assert_eq!((counts.0, counts.1), (warming, ready));
            let mut of_nodes = (0, 0, 0);
            for on in NODES {
                let counts = self.store.counts(&template(name), Some(&node(on))).await.unwrap();
                of_nodes.0 += counts.warming;
                of_nodes.1 += counts.ready;
                of_nodes.2 += counts.assigned;
            }
            assert_eq!(of_nodes, counts, "the counts of the nodes add up");
            // An overdue instance counts as assigned until it is swept.
            assert!((assigned..=assigned + expired).contains(&counts.2), "{counts:?}, {assigned} assigned");
        }
        let deadlines = records.values().filter_map(|record| match record.state() {
            State::Assigned { lease, .. } => Some(lease.deadline()),
            _ => None,
        });
        if let Some(first) = deadlines.min() {
            assert!(self.store.next_deadline().await.unwrap().is_some_and(|next| next <= first));
        }
        *self.seen.lock() = records;
    }
}
