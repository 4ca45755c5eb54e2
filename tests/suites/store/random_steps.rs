//! Random steps, applied to the store and to the reference model: both return the same answers and have the same
//! records after each step.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use try_it_now::instance::{EndReason, Instance, InstanceId, RETENTION, RateLimits};
use try_it_now::store::{Claim, Claimed, Cursor, StoreError, Visitor};

use super::Backend;
use super::fixture::{MINUTE, NO_LIMITS, NODES, StoreFixture, TEMPLATES, TTL, new_claim, node, template};
use super::reference_model::{ClaimResult, ModelState, ReferenceModel, View, view};

/// One network each, or a narrow one in a wide one that two visitors share.
const VISITORS: [&str; 4] = ["192.0.2.1", "192.0.2.2", "a::/64,2*a::/56", "a:0:0:1::/64,2*a::/56"];

const LIMITS: [RateLimits; 4] = [
    NO_LIMITS,
    RateLimits { hourly: 2, daily: 3, concurrent: 0 },
    RateLimits { hourly: 2, daily: 3, concurrent: 1 },
    RateLimits { hourly: 0, daily: 0, concurrent: 2 },
];

#[derive(Debug, Clone)]
enum Step {
    Insert(usize, usize),
    InsertAgain(Index),
    Offer(Index),
    /// Template, node, visitor, which limits apply, and whether the lease is longer than the time that a claim may be
    /// unconfirmed.
    Claim(usize, usize, usize, usize, bool),
    Confirm(Vec<Index>),
    /// An earlier claim, or one that never arrives.
    TakeBack(Option<Index>),
    /// An earlier claim again, because its answer was lost.
    Repeat(Index),
    /// The time to add, the longest lease, and which limits apply.
    Extend(Index, u64, u64, usize),
    Release(Index),
    Retire(Index),
    Withdraw(Index),
    Fail(Index),
    Sweep(usize),
    /// The time in milliseconds.
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<Index>;
    let (of, on) = (0..TEMPLATES.len(), 0..NODES.len());
    prop_oneof![
        5 => (of.clone(), on.clone()).prop_map(|(of, on)| Step::Insert(of, on)),
        1 => which().prop_map(Step::InsertAgain),
        8 => which().prop_map(Step::Offer),
        8 => (of, on, 0..VISITORS.len(), 0..LIMITS.len(), any::<bool>())
            .prop_map(|(of, on, by, limits, long)| Step::Claim(of, on, by, limits, long)),
        2 => vec(which(), 0..4).prop_map(Step::Confirm),
        3 => proptest::option::weighted(0.9, which()).prop_map(Step::TakeBack),
        3 => which().prop_map(Step::Repeat),
        4 => (which(), 0..90_000_u64, 0..240_000_u64, 0..LIMITS.len())
            .prop_map(|(it, by, max, limits)| Step::Extend(it, by, max, limits)),
        3 => which().prop_map(Step::Release),
        1 => which().prop_map(Step::Retire),
        1 => which().prop_map(Step::Withdraw),
        2 => which().prop_map(Step::Fail),
        3 => prop_oneof![0..3_usize, Just(100)].prop_map(Step::Sweep),
        4 => prop_oneof![
            Just(1_u64), Just(29_999), Just(30_000), Just(60_000), Just(599_999), Just(600_000),
            Just(3_600_000), Just(86_400_000),
        ].prop_map(Step::Advance),
    ]
}

struct StoreAndModel {
    fixture: StoreFixture,
    model: ReferenceModel,
    ids: Vec<InstanceId>,
    claims: Vec<Claim>,
    /// The table of a follower that applied all events from the first one on.
    table: HashMap<InstanceId, Instance>,
    cursor: Cursor,
}

fn viewed(answer: Result<Instance, StoreError>) -> Result<View, StoreError> {
    answer.map(|record| view(&record))
}

impl StoreAndModel {
    fn which(&self, index: &Index) -> InstanceId {
        match self.ids.as_slice() {
            [] => InstanceId::random(&template(TEMPLATES[0])),
            ids => index.get(ids).clone(),
        }
    }

    async fn insert(&mut self, id: InstanceId, on: &str) {
        let record = Instance::warming(id.clone(), node(on), 1, self.model.now);
        assert_eq!(self.fixture.store.insert(record).await, self.model.insert(&id, on));
        self.ids.push(id);
    }

    async fn claim(&mut self, claim: Claim) {
        let expected = self.model.claim(&claim);
        match (self.fixture.claim(&claim).await, expected) {
            (Claimed::Granted { instance, quota }, ClaimResult::Instance(expected, left)) => {
                assert_eq!((view(&instance), quota), (expected, left));
            }
            (other, ClaimResult::Not(expected)) => assert_eq!(other, expected),
            (other, ClaimResult::Instance(expected, _)) => panic!("{other:?}, expected {expected:?}"),
        }
        self.claims.push(claim);
    }

    async fn apply(&mut self, step: &Step) {
        let store = self.fixture.store.clone();
        match step {
            Step::Insert(of, on) => {
                self.insert(InstanceId::random(&template(TEMPLATES[*of])), NODES[*on]).await
            }
            Step::InsertAgain(it) => self.insert(self.which(it), NODES[0]).await,
            Step::Offer(it) => {
                let (id, at) = (self.which(it), self.fixture.endpoint());
                assert_eq!(viewed(store.offer(&id, at).await), self.model.offer(&id, at));
            }
            Step::Confirm(some) => {
                let ids: Vec<_> = some.iter().map(|it| self.which(it)).collect();
                self.fixture.confirm(&ids).await;
                self.model.confirm(&ids);
            }
            Step::TakeBack(it) => {
                let claim = match it {
                    Some(it) if !self.claims.is_empty() => it.get(&self.claims).clone(),
                    _ => new_claim(),
                };
                assert_eq!(viewed(self.fixture.take_back(&claim).await), self.model.take_back(&claim));
                self.claims.push(claim);
            }
            Step::Claim(of, on, by, limits, long) => {
                let limits = LIMITS[*limits];
                let (template, node) = (template(TEMPLATES[*of]), node(NODES[*on]));
                let ttl = if *long { MINUTE * 3 } else { TTL };
                let visitor = Visitor::new(VISITORS[*by]);
                self.claim(Claim { template, node, limits, visitor, ttl, ..new_claim() }).await;
            }
            Step::Repeat(it) => {
                if !self.claims.is_empty() {
                    self.claim(it.get(&self.claims).clone()).await;
                }
            }
            Step::Extend(it, by, max, limits) => {
                let limits = LIMITS[*limits];
                let (id, by, max) = (self.which(it), Duration::from_millis(*by), Duration::from_millis(*max));
                assert_eq!(
                    viewed(store.extend(&id, by, max, limits).await),
                    self.model.extend(&id, by, max, limits)
                );
            }
            Step::Release(it) => {
                let id = self.which(it);
                let released = store.release(&id).await.map(|(record, _)| record);
                assert_eq!(viewed(released), self.model.release(&id));
            }
            Step::Retire(it) => {
                let id = self.which(it);
                assert_eq!(viewed(store.retire(&id).await), self.model.retire(&id));
            }
            Step::Withdraw(it) => {
                let id = self.which(it);
                assert_eq!(viewed(store.withdraw(&id).await), self.model.withdraw(&id));
            }
            Step::Fail(it) => {
                let id = self.which(it);
                assert_eq!(viewed(store.fail(&id).await), self.model.fail(&id));
            }
            Step::Sweep(limit) => self.sweep(*limit).await,
            Step::Advance(by) => {
                self.fixture.advance(Duration::from_millis(*by)).await;
                self.model.now = self.fixture.now().await;
            }
        }
    }

    /// With a limit, the store chooses which of several due templates it handles first. So this checks that the choice
    /// is valid and then applies it to the model.
    async fn sweep(&mut self, limit: usize) {
        let (now, before) = (self.model.now, self.model.records.clone());
        let swept = self.fixture.store.sweep(limit).await.unwrap();
        let expired: HashSet<_> = swept.iter().map(|record| record.id().clone()).collect();
        let left: HashSet<_> = self.fixture.all().await.iter().map(|record| record.id().clone()).collect();
        assert_eq!(expired.len(), swept.len());
        for record in &swept {
            let expected = match self.model.find(record.id()).unwrap() {
                // The claim was never confirmed.
                mut it @ View { state: ModelState::Assigned { token, from, until, .. }, .. } => {
                    it.state = ModelState::Expired {
                        token,
                        from,
                        until,
                        ended: now,
                        reason: EndReason::Unconfirmed,
                    };
                    it.generation += 1;
                    it
                }
                overdue => overdue,
            };
            assert_eq!(view(record), expected);
        }
        let (mut done, mut undone) = (Vec::new(), Vec::new());
        for record in before {
            let (overdue, due, ended) = match record.state {
                ModelState::Assigned { until, .. } => {
                    let due = self.model.due(&record).unwrap();
                    (due <= now, due, until.min(now))
                }
                ModelState::Expired { ended, .. } => (false, ended, ended),
                ModelState::Warming | ModelState::Ready(_) => continue,
            };
            let id = &record.id;
            assert!(overdue || !expired.contains(id), "{id} was not overdue");
            assert!(ended + RETENTION <= now || left.contains(id), "{id} was removed too early");
            let steps = [(due, overdue, expired.contains(id)), (ended + RETENTION, true, !left.contains(id))];
            for (at, _, is_done) in steps.into_iter().filter(|(at, due, _)| *due && *at <= now) {
                if is_done { &mut done } else { &mut undone }.push((id.template().to_owned(), at));
            }
            if let Some(after) = swept.iter().find(|after| after.id() == id) {
                self.model.put(id, Some(view(after).state));
            }
            if !left.contains(id) {
                self.model.put(id, None);
            }
        }
        assert_eq!(done.len(), limit.min(done.len() + undone.len()), "as many as the limit allows");
        for name in TEMPLATES {
            let of = |steps: &[(String, _)]| {
                steps.iter().filter(|(of, _)| of == name).map(|(_, at)| *at).collect::<Vec<_>>()
            };
            if let (Some(last), Some(first)) = (of(&done).into_iter().max(), of(&undone).into_iter().min()) {
                assert!(last <= first, "in the order of their deadlines");
            }
        }
    }

    async fn compare(&mut self) {
        let mut expected: Vec<_> = self.model.records.iter().map(|record| self.model.seen(record)).collect();
        expected.sort_by(|a, b| a.id.cmp(&b.id));
        let mut all: Vec<_> = self.fixture.all().await.iter().map(view).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(all, expected);

        let next = self.model.records.iter().filter_map(|record| self.model.due(record));
        assert_eq!(self.fixture.store.next_deadline().await.unwrap(), next.min());

        for name in TEMPLATES {
            let count = |of: fn(&ModelState) -> bool| {
                self.model.records.iter().filter(|r| r.id.template() == name && of(&r.state)).count()
            };
            let counts = (
                count(|state| *state == ModelState::Warming),
                count(|state| matches!(state, ModelState::Ready(_))),
                count(|state| matches!(state, ModelState::Assigned { .. })),
            );
            assert_eq!(self.fixture.counts(name).await, counts);
        }

        self.fixture.follow(&mut self.table, &mut self.cursor).await;
        let (snapshot, cursor) = self.fixture.snapshot().await;
        let now = self.model.now;
        let followed = self.table.clone().into_iter().map(|(id, record)| (id, record.seen_at(now))).collect();
        assert_eq!((snapshot, cursor), (followed, self.cursor));
        self.fixture.check_invariants().await;
    }
}

pub(crate) fn random_steps_agree_with_the_reference_model<F>(new: impl Fn() -> F, cases: u32)
where
    F: Future<Output = Option<Arc<dyn Backend>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in vec(step(), 1..80))| {
        runtime.block_on(async {
            let Some(backend) = new().await else { return };
            let fixture = StoreFixture::new(backend);
            let model = ReferenceModel::new(fixture.now().await);
            let (ids, claims, table) = (Vec::new(), Vec::new(), HashMap::new());
            let mut pair = StoreAndModel { fixture, model, ids, claims, table, cursor: Cursor(0) };
            for step in &steps {
                pair.apply(step).await;
                pair.compare().await;
            }
        });
    });
}
