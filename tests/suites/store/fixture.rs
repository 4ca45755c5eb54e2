//! A store with hands to work it, and eyes on its invariants.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::instance::Counts;
use try_it_now::instance::{
    ClaimToken, Endpoint, Instance, InstanceId, Limits, NodeId, State, TemplateName, check, check_step,
};
use try_it_now::store::{Claim, Claimed, Cursor, RouteChange, RouteEvents, Store, StoreError, Visitor};

use super::Backend;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const TTL: Duration = Duration::from_secs(60);
pub(crate) const NO_LIMITS: Limits = Limits { hourly: 0, daily: 0 };
/// The templates and nodes of all sentences.
pub(crate) const TEMPLATES: [&str; 2] = ["shop", "blog"];
pub(crate) const NODES: [&str; 3] = ["a", "b", "c"];
/// A wait that only a lost wake-up makes so long.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) store: Arc<dyn Store>,
    /// Each record as it was at the last look.
    seen: parking_lot::Mutex<HashMap<InstanceId, Instance>>,
}

pub(crate) fn template(name: &str) -> TemplateName {
    TemplateName::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// A wish for one of `shop`, by a node without members of its own, of a visitor without limits.
pub(crate) fn wish() -> Claim {
    Claim {
        template: template("shop"),
        token: ClaimToken::random(),
        node: node("a"),
        visitor: Visitor("192.0.2.1".to_owned()),
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

impl Stage {
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

    /// The state as readers see it; `gone` without a record.
    pub(crate) async fn state(&self, id: &InstanceId) -> &'static str {
        self.get(id).await.map_or("gone", |record| record.life().name())
    }

    /// One that no other instance has.
    pub(crate) fn endpoint(&self) -> Endpoint {
        // Shared by all stages: several may work on one store.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let [_, a, b, c] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        ([10, a, b, c], 4000).into()
    }

    pub(crate) async fn warming(&self, of: &str, on: &str) -> InstanceId {
        let id = InstanceId::random(&template(of));
        let record = Instance::warming(id.clone(), node(on), 1, self.now().await);
        self.store.insert(record).await.unwrap();
        id
    }

    pub(crate) async fn ready(&self, of: &str, on: &str) -> InstanceId {
        let id = self.warming(of, on).await;
        self.store.offer(&id, self.endpoint()).await.unwrap();
        id
    }

    pub(crate) async fn claim(&self, claim: &Claim) -> Claimed {
        self.store.claim(claim).await.unwrap()
    }

    /// The granted instance of a claim that must not fail.
    pub(crate) async fn granted(&self, claim: &Claim) -> Instance {
        let claimed = self.claim(claim).await;
        claimed.instance().unwrap_or_else(|| panic!("not granted: {claimed:?}")).clone()
    }

    /// Takes a claim back. Only this step leads back, so only after it is what was seen before forgotten.
    pub(crate) async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError> {
        let back = self.store.take_back(claim).await?;
        self.seen.lock().insert(back.id().clone(), back.clone());
        Ok(back)
    }

    /// The claims of these were delivered.
    pub(crate) async fn confirm(&self, ids: &[InstanceId]) {
        self.store.confirm(ids).await.unwrap();
    }

    /// A new instance of `shop` in the hands of a visitor for [`TTL`].
    pub(crate) async fn assigned(&self) -> Instance {
        self.ready("shop", "a").await;
        self.granted(&wish()).await
    }

    pub(crate) async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max: Duration,
    ) -> Result<Instance, StoreError> {
        self.store.extend(id, by, max).await
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
        let Counts { warming, ready, assigned } = self.store.counts(&template(of), None).await.unwrap();
        (warming, ready, assigned)
    }

    /// The events after `cursor` that are there at once.
    pub(crate) async fn events(&self, cursor: Cursor) -> Vec<(Cursor, RouteChange)> {
        match self.store.route_events(cursor, Duration::ZERO).await.unwrap() {
            RouteEvents::Changes(changes) => changes,
            RouteEvents::Gap => panic!("a gap after {cursor:?}"),
        }
    }

    /// Follows the stream to its present end, and changes `table` with it.
    pub(crate) async fn follow(&self, table: &mut HashMap<InstanceId, Instance>, cursor: &mut Cursor) {
        loop {
            let changes = self.events(*cursor).await;
            if changes.is_empty() {
                return;
            }
            for (at, change) in changes {
                assert!(at > *cursor, "cursors rise: {at:?} after {cursor:?}");
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

    /// Checks the invariants of this moment, of all that changed since the last look, and that the other readers
    /// tell the same as the records. Nobody else may work on the store meanwhile.
    pub(crate) async fn sound(&self) {
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
        let routed = |r: &&Instance| matches!(r.life(), State::Assigned { .. } | State::Expired { .. });
        let expected: HashMap<_, _> =
            records.values().filter(routed).map(|r| (r.id().clone(), r.clone())).collect();
        assert_eq!(table, expected, "the routes are the assigned and the expired");
        for name in TEMPLATES {
            let (mut warming, mut ready, mut assigned, mut expired) = (0, 0, 0, 0);
            for record in records.values().filter(|record| record.id().template() == name) {
                match record.life() {
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
            assert_eq!(of_nodes, counts, "the counts of the nodes are the counts of all");
            // One that is overdue counts as assigned until it is swept.
            assert!((assigned..=assigned + expired).contains(&counts.2), "{counts:?}, {assigned} assigned");
        }
        let deadlines = records.values().filter_map(|record| match record.life() {
            State::Assigned { lease, .. } => Some(lease.deadline()),
            _ => None,
        });
        if let Some(first) = deadlines.min() {
            assert!(self.store.next_deadline().await.unwrap().is_some_and(|next| next <= first));
        }
        *self.seen.lock() = records;
    }
}
