//! Several callers that want the same at the same moment.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use try_it_now::instance::{ClaimToken, EndReason, ExtendRefused, RateLimits, State, TransitionRefused};
use try_it_now::store::{Claim, Claimed, Store, StoreError};
use try_it_now::telemetry::task::spawn;

use super::fixture::{MINUTE, NO_LIMITS, StoreFixture, TTL, new_claim, template};

/// How often each race is run: every run interleaves differently.
const ROUNDS: usize = 60;

/// Runs `act` in `runners` tasks that start at the same moment. Returns their results.
async fn at_once<T, F>(s: &StoreFixture, runners: usize, act: impl Fn(usize, Arc<dyn Store>) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(runners));
    let tasks: Vec<_> = (0..runners)
        .map(|n| {
            let (start, act) = (start.clone(), act(n, s.store.clone()));
            spawn("racer", async move {
                start.wait().await;
                act.await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Runs two futures in two tasks that start at the same moment, checks the invariants, and returns both results.
async fn against<A, B>(
    s: &StoreFixture,
    one: impl Future<Output = A> + Send + 'static,
    other: impl Future<Output = B> + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
{
    let start = Arc::new(Barrier::new(2));
    let there = start.clone();
    let one = spawn("one", async move {
        start.wait().await;
        one.await
    });
    let other = spawn("other", async move {
        there.wait().await;
        other.await
    });
    let answers = (one.await.unwrap(), other.await.unwrap());
    s.check_invariants().await;
    answers
}

pub(crate) async fn of_many_claims_exactly_as_many_as_are_ready_are_granted(s: &StoreFixture) {
    const READY: usize = 40;
    for n in 0..READY {
        s.add_ready("shop", ["a", "b", "c"][n % 3]).await;
    }
    let claimed = at_once(s, 100, |_, store| async move { store.claim(&new_claim()).await.unwrap() }).await;
    let granted: Vec<_> = claimed.iter().filter_map(Claimed::instance).map(|it| it.id()).collect();
    assert_eq!(granted.len(), READY);
    assert_eq!(granted.iter().collect::<HashSet<_>>().len(), READY, "no instance is claimed twice");
    assert_eq!(s.counts("shop").await, (0, 0, READY));
}

pub(crate) async fn one_claim_sent_many_times_at_once_gets_one_instance_and_one_charge(s: &StoreFixture) {
    for _ in 0..3 {
        s.add_ready("shop", "a").await;
    }
    let claim = Claim { limits: RateLimits { hourly: 2, daily: 2, concurrent: 0 }, ..new_claim() };
    let answers = at_once(s, 16, |_, store| {
        let claim = claim.clone();
        async move { store.claim(&claim).await.unwrap() }
    })
    .await;
    assert!(answers[0].instance().is_some());
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(s.counts("shop").await, (0, 2, 1));
    assert!(s.claim(&Claim { token: ClaimToken(7), ..claim }).await.instance().is_some());
}

pub(crate) async fn a_rate_limit_holds_against_concurrent_claims(s: &StoreFixture) {
    for _ in 0..30 {
        s.add_ready("shop", "a").await;
    }
    let limits = RateLimits { hourly: 5, daily: 9, concurrent: 0 };
    let claimed = at_once(s, 30, move |_, store| async move {
        store.claim(&Claim { limits, ..new_claim() }).await.unwrap()
    })
    .await;
    assert_eq!(claimed.iter().filter(|claimed| claimed.instance().is_some()).count(), 5);
    assert_eq!(s.counts("shop").await, (0, 25, 5));
}

pub(crate) async fn of_many_claims_for_the_last_place_one_wins(s: &StoreFixture) {
    let limits = RateLimits { concurrent: 3, ..NO_LIMITS };
    let claim = move || Claim { limits, ..new_claim() };
    for _ in 0..40 {
        s.add_ready("shop", "a").await;
    }
    s.granted(&claim()).await;
    s.granted(&claim()).await;
    for _ in 0..10 {
        let claimed = at_once(s, 8, |_, store| async move { store.claim(&claim()).await.unwrap() }).await;
        let granted: Vec<_> = claimed.iter().filter_map(Claimed::instance).collect();
        assert_eq!(granted.len(), 1, "{claimed:?}");
        s.store.release(granted[0].id()).await.unwrap();
    }
}

pub(crate) async fn of_many_extensions_as_many_as_the_limit_allows_win(s: &StoreFixture) {
    let limits = RateLimits { hourly: 4, daily: 9, concurrent: 0 };
    s.add_ready("shop", "a").await;
    let it = s.granted(&Claim { limits, ..new_claim() }).await;
    let answers = at_once(s, 12, |_, store| {
        let id = it.id().clone();
        async move { store.extend(&id, MINUTE, 99 * MINUTE, limits).await }
    })
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    let longer = s.get(it.id()).await.unwrap();
    assert_eq!(longer.lease().unwrap().deadline(), it.lease().unwrap().deadline() + 3 * MINUTE);
}

pub(crate) async fn of_two_releases_one_wins(s: &StoreFixture) {
    for _ in 0..ROUNDS {
        let it = s.add_assigned().await;
        let answers = at_once(s, 2, |_, store| {
            let id = it.id().clone();
            async move { store.release(&id).await }
        })
        .await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        assert!(answers.contains(&Err(StoreError::Unknown)));
    }
}

pub(crate) async fn of_two_extensions_to_the_limit_one_wins(s: &StoreFixture) {
    for _ in 0..ROUNDS {
        let it = s.add_assigned().await;
        let longest = TTL + MINUTE;
        let answers = at_once(s, 2, |_, store| {
            let id = it.id().clone();
            async move { store.extend(&id, MINUTE, longest, NO_LIMITS).await }
        })
        .await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        let refused = Err(StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(longest)));
        assert!(answers.contains(&refused));
        assert_eq!(s.get(it.id()).await.unwrap().generation(), it.generation() + 1);
    }
}

pub(crate) async fn a_failure_against_a_claim_has_one_order(s: &StoreFixture) {
    for _ in 0..ROUNDS {
        let id = s.add_ready("shop", "a").await;
        let (claimer, failer, failing) = (s.store.clone(), s.store.clone(), id.clone());
        let (claimed, failed) = against(s, async move { claimer.claim(&new_claim()).await }, async move {
            failer.fail(&failing).await
        })
        .await;
        let before = failed.expect("the instance exists");
        match claimed.unwrap() {
            Claimed::Empty => {
                assert_eq!(before.state().name(), "ready");
                assert_eq!(s.state(&id).await, "gone");
            }
            Claimed::Granted { instance, .. } => {
                assert_eq!(before, instance);
                let after = s.get(&id).await.unwrap();
                assert!(matches!(after.state(), State::Expired { reason: EndReason::Failed, .. }));
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn a_retirement_against_a_claim_has_one_winner(s: &StoreFixture) {
    for _ in 0..ROUNDS {
        let id = s.add_ready("shop", "a").await;
        let (claimer, retirer, retiring) = (s.store.clone(), s.store.clone(), id.clone());
        let (claimed, retired) =
            against(s, async move { claimer.claim(&new_claim()).await.unwrap() }, async move {
                retirer.retire(&retiring).await
            })
            .await;
        match retired {
            Ok(before) => assert_eq!((claimed, before.state().name()), (Claimed::Empty, "ready")),
            Err(StoreError::Refused(TransitionRefused { from, .. })) => {
                assert_eq!((claimed.instance().unwrap().id(), from), (&id, "assigned"));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

pub(crate) async fn a_release_against_a_sweep_has_one_winner(s: &StoreFixture) {
    for _ in 0..ROUNDS {
        let it = s.add_assigned().await;
        s.advance(TTL - Duration::from_millis(1)).await;
        let (releaser, backend, releasing) = (s.store.clone(), s.backend.clone(), it.id().clone());
        let (released, swept) = against(s, async move { releaser.release(&releasing).await }, async move {
            backend.advance(Duration::from_millis(1)).await;
            backend.store().sweep(usize::MAX).await.unwrap()
        })
        .await;
        match released {
            Ok((before, _)) => {
                assert_eq!(before, it);
                assert!(swept.is_empty(), "released before its deadline");
                assert_eq!(s.state(it.id()).await, "gone");
            }
            Err(refused) => {
                assert_eq!(refused, StoreError::Unknown);
                assert_eq!(swept.iter().map(|r| r.id()).collect::<Vec<_>>(), [it.id()]);
                assert_eq!(s.state(it.id()).await, "expired");
            }
        }
    }
}

pub(crate) async fn of_two_sweeps_each_expiry_is_reported_to_one(s: &StoreFixture) {
    for n in 0..200 {
        let of = ["shop", "blog"][n % 2];
        s.add_ready(of, "a").await;
        s.granted(&Claim { template: template(of), ..new_claim() }).await;
    }
    s.advance(TTL).await;
    let swept = at_once(s, 4, |_, store| async move {
        let mut all = Vec::new();
        loop {
            match store.sweep(7).await.unwrap() {
                none if none.is_empty() => return all,
                some => all.extend(some),
            }
        }
    })
    .await;
    let mut reports = HashMap::new();
    for record in swept.into_iter().flatten() {
        *reports.entry(record.id().clone()).or_insert(0) += 1;
    }
    assert_eq!(reports.len(), 200);
    assert!(reports.values().all(|times| *times == 1));
}
