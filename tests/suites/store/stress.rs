//! Eight tasks do what they like, and everything is in order afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use try_it_now::instance::{ClaimToken, InstanceId, check_step};
use try_it_now::store::{Claim, Claimed, Cursor, RouteChange, StoreError};
use try_it_now::telemetry::task::spawn;

use super::fixture::{HOUR, LONG, MINUTE, NODES, Stage, TEMPLATES, node, template, wish};

const TASKS: u64 = 8;
const STEPS: usize = 600;

/// Numbers that look random and are the same in each run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn of<'a, T>(&mut self, some: &'a [T]) -> Option<&'a T> {
        let n = some.len().max(1);
        some.get(self.below(n))
    }
}

/// What one task saw.
#[derive(Default)]
struct Diary {
    granted: Vec<(ClaimToken, InstanceId)>,
    released: Vec<InstanceId>,
    /// Taken back or dead without ever having been a visitor's.
    unused: Vec<InstanceId>,
    expired: Vec<InstanceId>,
}

type Known = Arc<parking_lot::Mutex<(Vec<InstanceId>, Vec<Claim>)>>;

async fn act(s: &Stage, dice: &mut Dice, known: &Known, diary: &mut Diary) {
    let of = *dice.of(&TEMPLATES).unwrap();
    let on = *dice.of(&NODES).unwrap();
    let some = dice.of(&known.lock().0).cloned();
    let id = some.unwrap_or_else(|| InstanceId::random(&template(of)));
    match dice.below(20) {
        0..5 => {
            let id = s.ready(of, on).await;
            known.lock().0.push(id);
        }
        5..12 => {
            let repeated = dice.of(&known.lock().1).cloned().filter(|_| dice.below(3) == 0);
            let claim = repeated.unwrap_or_else(|| Claim {
                template: template(of),
                node: node(on),
                ttl: MINUTE,
                ..wish()
            });
            known.lock().1.push(claim.clone());
            if let Claimed::Granted { instance, .. } = s.claim(&claim).await {
                assert_eq!(instance.lease().unwrap().token(), claim.token);
                diary.granted.push((claim.token, instance.id().clone()));
            }
        }
        12..14 => match s.extend(&id, MINUTE, HOUR).await {
            Ok(_) | Err(StoreError::Unknown | StoreError::NotExtended(_)) => {}
            Err(other) => panic!("{other}"),
        },
        14..16 => match s.store.release(&id).await {
            Ok(_) => diary.released.push(id),
            Err(other) => assert_eq!(other, StoreError::Unknown),
        },
        16 => match s.store.fail(&id).await {
            Ok(before) if before.lease().is_none() => diary.unused.push(id),
            Ok(_) | Err(StoreError::Unknown) => {}
            Err(other) => panic!("{other}"),
        },
        17 => match s.store.retire(&id).await {
            Ok(_) => diary.unused.push(id),
            Err(StoreError::Unknown | StoreError::Refused(_)) => {}
            Err(other) => panic!("{other}"),
        },
        // Less than the store remembers a token, in all.
        18 => s.advance(Duration::from_millis(dice.below(2_000) as u64)).await,
        _ => {
            let swept = s.store.sweep(dice.below(10)).await.unwrap();
            diary.expired.extend(swept.into_iter().map(|record| record.id().clone()));
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

pub(crate) async fn a_storm_of_steps_leaves_all_in_order(s: &Stage) {
    let known = Known::default();
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let (stage, known) = (Stage::new(s.backend.clone()), known.clone());
            spawn("storm", async move {
                let (mut dice, mut diary) = (Dice(n), Diary::default());
                for _ in 0..STEPS {
                    act(&stage, &mut dice, &known, &mut diary).await;
                }
                diary
            })
        })
        .collect();
    let mut diaries = Vec::new();
    for task in tasks {
        diaries.push(timeout(LONG * 3, task).await.expect("the storm ends").unwrap());
    }

    let (mut of_token, mut of_id) = (HashMap::new(), HashMap::new());
    for (token, id) in diaries.iter().flat_map(|diary| &diary.granted) {
        assert_eq!(of_token.entry(*token).or_insert(id), &id, "a claim got two instances");
        assert_eq!(of_id.entry(id).or_insert(*token), token, "{id} was given to two");
    }
    let released = all_different(diaries.iter().flat_map(|diary| &diary.released), "released");
    let unused = all_different(diaries.iter().flat_map(|diary| &diary.unused), "taken back");
    let expired = all_different(diaries.iter().flat_map(|diary| &diary.expired), "expired");
    assert!(released.is_disjoint(&unused) && released.is_disjoint(&expired) && unused.is_disjoint(&expired));
    assert!(of_id.keys().all(|id| !unused.contains(*id)), "a visitor's instance was taken back");
    assert!(of_id.len() > 50 && released.len() > 10 && expired.len() > 10, "a calm storm tells nothing");

    for id in released.iter().chain(&unused) {
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
