//! Eight tasks take random steps at the same time, and all invariants hold afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use try_it_now::instance::{ClaimToken, InstanceId, check_step};
use try_it_now::store::{Claim, Claimed, Cursor, RouteChange, StoreError};
use try_it_now::telemetry::task::spawn;

use super::fixture::{
    HOUR, MINUTE, NODES, StoreFixture, TEMPLATES, WAKE_UP_TIMEOUT, new_claim, node, template,
};

const TASKS: u64 = 8;
const STEPS: usize = 600;

/// A pseudo-random number generator that returns the same numbers in each run (SplitMix64).
struct SeededRng(u64);

impl SeededRng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, some: &'a [T]) -> Option<&'a T> {
        let n = some.len().max(1);
        some.get(self.below(n))
    }
}

/// The results that one task saw.
#[derive(Default)]
struct TaskLog {
    granted: Vec<(ClaimToken, InstanceId)>,
    released: Vec<InstanceId>,
    /// Retired or failed without having been assigned.
    unassigned: Vec<InstanceId>,
    expired: Vec<InstanceId>,
}

type SharedIds = Arc<parking_lot::Mutex<(Vec<InstanceId>, Vec<Claim>)>>;

async fn act(s: &StoreFixture, rng: &mut SeededRng, shared: &SharedIds, log: &mut TaskLog) {
    let of = *rng.pick(&TEMPLATES).unwrap();
    let on = *rng.pick(&NODES).unwrap();
    let some = rng.pick(&shared.lock().0).cloned();
    let id = some.unwrap_or_else(|| InstanceId::random(&template(of)));
    match rng.below(20) {
        0..5 => {
            let id = s.add_ready(of, on).await;
            shared.lock().0.push(id);
        }
        5..12 => {
            let repeated = rng.pick(&shared.lock().1).cloned().filter(|_| rng.below(3) == 0);
            let claim = repeated.unwrap_or_else(|| Claim {
                template: template(of),
                node: node(on),
                ttl: MINUTE,
                ..new_claim()
            });
            shared.lock().1.push(claim.clone());
            if let Claimed::Granted { instance, .. } = s.claim(&claim).await {
                assert_eq!(instance.lease().unwrap().token(), claim.token);
                log.granted.push((claim.token, instance.id().clone()));
            }
        }
        12..14 => match s.extend(&id, MINUTE, HOUR).await {
            Ok(_) | Err(StoreError::Unknown | StoreError::NotExtended(_)) => {}
            Err(other) => panic!("{other}"),
        },
        14..16 => match s.store.release(&id).await {
            Ok(_) => log.released.push(id),
            Err(other) => assert_eq!(other, StoreError::Unknown),
        },
        16 => match s.store.fail(&id).await {
            Ok(before) if before.lease().is_none() => log.unassigned.push(id),
            Ok(_) | Err(StoreError::Unknown) => {}
            Err(other) => panic!("{other}"),
        },
        17 => match s.store.retire(&id).await {
            Ok(_) => log.unassigned.push(id),
            Err(StoreError::Unknown | StoreError::Refused(_)) => {}
            Err(other) => panic!("{other}"),
        },
        // In all less than the time for which the store remembers a token.
        18 => s.advance(Duration::from_millis(rng.below(2_000) as u64)).await,
        _ => {
            let swept = s.store.sweep(rng.below(10)).await.unwrap();
            log.expired.extend(swept.into_iter().map(|record| record.id().clone()));
        }
    }
}

fn all_different<'a>(ids: impl Iterator<Item = &'a InstanceId>, what: &str) -> HashSet<InstanceId> {
    let mut seen = HashSet::new();
    for id in ids {
        assert!(seen.insert(id.clone()), "{id} was {what} twice");
    }
    seen
}

pub(crate) async fn concurrent_random_steps_keep_every_invariant(s: &StoreFixture) {
    let shared = SharedIds::default();
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let (fixture, shared) = (StoreFixture::new(s.backend.clone()), shared.clone());
            spawn("stress", async move {
                let (mut rng, mut log) = (SeededRng(n), TaskLog::default());
                for _ in 0..STEPS {
                    act(&fixture, &mut rng, &shared, &mut log).await;
                }
                log
            })
        })
        .collect();
    let mut logs = Vec::new();
    for task in tasks {
        logs.push(timeout(WAKE_UP_TIMEOUT * 3, task).await.expect("the tasks end").unwrap());
    }

    let (mut of_token, mut of_id) = (HashMap::new(), HashMap::new());
    for (token, id) in logs.iter().flat_map(|log| &log.granted) {
        assert_eq!(of_token.entry(*token).or_insert(id), &id, "a claim got two instances");
        assert_eq!(of_id.entry(id).or_insert(*token), token, "{id} was claimed twice");
    }
    let released = all_different(logs.iter().flat_map(|log| &log.released), "released");
    let unassigned = all_different(logs.iter().flat_map(|log| &log.unassigned), "retired or failed");
    let expired = all_different(logs.iter().flat_map(|log| &log.expired), "expired");
    assert!(
        released.is_disjoint(&unassigned)
            && released.is_disjoint(&expired)
            && unassigned.is_disjoint(&expired)
    );
    assert!(of_id.keys().all(|id| !unassigned.contains(*id)), "an assigned instance was retired");
    assert!(of_id.len() > 50 && released.len() > 10 && expired.len() > 10, "too few steps had an effect");

    for id in released.iter().chain(&unassigned) {
        assert_eq!(s.state(id).await, "gone");
    }
    s.sweep().await;
    let (fresh, end) = s.snapshot().await;
    let (mut table, mut cursor) = (HashMap::new(), Cursor(0));
    while cursor < end {
        for (at, change) in s.events(cursor).await {
            cursor = at;
            let after = match &change {
                RouteChange::Set(record) => Some(record),
                RouteChange::Gone(_) => None,
            };
            let id = match &change {
                RouteChange::Set(record) => record.id(),
                RouteChange::Gone(id) => id,
            };
            if let Some(before) = table.remove(id) {
                assert_eq!(check_step(&before, after, s.now().await), Ok(()), "in the order of the stream");
            }
            if let Some(record) = after {
                table.insert(id.clone(), record.clone());
            }
        }
    }
    assert_eq!(table, fresh);
}
