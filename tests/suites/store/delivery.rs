//! Claims whose answers reach the visitor, and those whose answers do not.

use std::time::Duration;

use try_it_now::instance::{ClaimToken, EndReason, RateLimits, State};
use try_it_now::store::{CONFIRM_TIMEOUT, Claim, Claimed, Cursor, RouteChange, StoreError};

use super::fixture::{HOUR, MINUTE, NO_LIMITS, StoreFixture, TTL, ids, new_claim};

const TICK: Duration = Duration::from_millis(1);
const LIMITS: RateLimits = RateLimits { hourly: 2, daily: 3, concurrent: 0 };

/// A claim whose lease is longer than the time that a claim may be unconfirmed.
fn new_long_claim() -> Claim {
    Claim { ttl: HOUR, ..new_claim() }
}

pub(crate) async fn an_undone_claim_leaves_everything_as_it_was(s: &StoreFixture) {
    let id = s.add_ready("shop", "b").await;
    let before = s.get(&id).await.unwrap();
    let claim = new_claim();
    let assigned = s.granted(&claim).await;
    let (_, cursor) = s.snapshot().await;
    let back = s.take_back(&claim).await.unwrap();
    assert_eq!((back.state(), back.node()), (before.state(), before.node()));
    assert_eq!(back.generation(), assigned.generation() + 1);
    assert_eq!(s.get(&id).await.as_ref(), Some(&back));
    assert_eq!(s.counts("shop").await, (0, 1, 0));
    assert_eq!(s.store.next_deadline().await, Ok(None));
    let events = s.events(cursor).await;
    assert_eq!(events, [(Cursor(cursor.0 + 1), RouteChange::Set(back))], "proxies see the change");
    assert_eq!(s.snapshot().await.0.len(), 0);
}

pub(crate) async fn the_instance_of_an_undone_claim_is_the_next_to_be_claimed(s: &StoreFixture) {
    let (one, two) = (s.add_ready("shop", "b").await, s.add_ready("shop", "b").await);
    s.add_ready("shop", "b").await;
    let (first, second) = (new_claim(), new_claim());
    s.granted(&first).await;
    s.granted(&second).await;
    assert_eq!(*s.take_back(&second).await.unwrap().id(), two);
    assert_eq!(*s.take_back(&first).await.unwrap().id(), one);
    let own = s.add_ready("shop", "a").await;
    assert_eq!(*s.granted(&new_claim()).await.id(), own, "an instance of the own node comes first");
    for expected in [one, two] {
        assert_eq!(*s.granted(&new_claim()).await.id(), expected);
    }
}

pub(crate) async fn an_undone_claim_is_not_charged(s: &StoreFixture) {
    let limited = || Claim { limits: LIMITS, ..new_claim() };
    for _ in 0..3 {
        s.add_ready("shop", "a").await;
    }
    let quota = |claimed: &Claimed| match claimed {
        Claimed::Granted { quota, .. } => quota.unwrap(),
        other => panic!("{other:?}"),
    };
    let first = limited();
    s.claim(&first).await;
    s.advance(MINUTE / 2).await;
    s.take_back(&first).await.unwrap();
    s.advance(MINUTE).await;
    let fresh = s.claim(&limited()).await;
    assert_eq!((quota(&fresh).remaining, quota(&fresh).reset), (1, HOUR), "no window had begun");
    s.advance(MINUTE).await;
    let second = limited();
    assert_eq!(quota(&s.claim(&second).await).remaining, 0);
    assert!(matches!(s.claim(&limited()).await, Claimed::RateLimited(_)));
    s.take_back(&second).await.unwrap();
    let again = s.claim(&limited()).await;
    assert_eq!((quota(&again).remaining, quota(&again).reset), (0, HOUR - MINUTE), "the same window");
    let free = Claim { limits: NO_LIMITS, ..new_claim() };
    s.claim(&free).await;
    s.take_back(&free).await.unwrap();
    assert!(
        matches!(s.claim(&limited()).await, Claimed::RateLimited(_)),
        "a claim that was not charged refunds nothing"
    );
}

pub(crate) async fn the_token_of_an_undone_claim_gets_nothing(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let claim = new_claim();
    s.granted(&claim).await;
    s.take_back(&claim).await.unwrap();
    assert_eq!(s.claim(&claim).await, Claimed::Empty);
    assert_eq!(s.take_back(&claim).await, Err(StoreError::Unknown), "twice");
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_claim_that_is_undone_before_it_arrives_gets_nothing(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let late = new_claim();
    assert_eq!(s.take_back(&late).await, Err(StoreError::Unknown));
    assert_eq!(s.claim(&late).await, Claimed::Empty);
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_confirmed_claim_cannot_be_undone(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let claim = new_claim();
    let it = s.granted(&claim).await;
    s.confirm(&[it.id().clone()]).await;
    s.confirm(&[it.id().clone()]).await;
    assert_eq!(s.take_back(&claim).await, Err(StoreError::Unknown));
    assert_eq!(s.get(it.id()).await, Some(it), "a confirmation changes nothing in the record");
}

pub(crate) async fn an_extension_confirms_the_claim(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let claim = new_long_claim();
    let it = s.granted(&claim).await;
    s.extend(it.id(), MINUTE, 9 * HOUR).await.unwrap();
    assert_eq!(s.take_back(&claim).await, Err(StoreError::Unknown));
    s.advance(CONFIRM_TIMEOUT).await;
    assert_eq!(s.sweep().await, []);
    assert_eq!(s.state(it.id()).await, "assigned");
}

pub(crate) async fn the_claim_of_an_ended_instance_can_be_neither_confirmed_nor_undone(s: &StoreFixture) {
    for _ in 0..3 {
        s.add_ready("shop", "a").await;
    }
    let (released, failed, overdue) = (new_claim(), new_claim(), new_claim());
    let one = s.granted(&released).await;
    let two = s.granted(&failed).await;
    let three = s.granted(&overdue).await;
    s.store.release(one.id()).await.unwrap();
    s.store.fail(two.id()).await.unwrap();
    s.advance(TTL).await;
    for _ in ["overdue", "swept"] {
        let all = s.all().await;
        for claim in [&released, &failed, &overdue] {
            assert_eq!(s.take_back(claim).await, Err(StoreError::Unknown));
        }
        s.confirm(&[one.id().clone(), two.id().clone(), three.id().clone()]).await;
        assert_eq!(ids(&s.all().await), ids(&all));
        s.sweep().await;
    }
    assert_eq!(s.state(three.id()).await, "expired");
}

pub(crate) async fn an_unconfirmed_claim_ends_after_a_minute(s: &StoreFixture) {
    for _ in 0..2 {
        s.add_ready("shop", "a").await;
    }
    let (claim, other) = (new_long_claim(), new_long_claim());
    let it = s.granted(&claim).await;
    let lease = *it.lease().unwrap();
    assert_eq!(s.store.next_deadline().await, Ok(Some(lease.assigned_at() + CONFIRM_TIMEOUT)));
    s.advance(CONFIRM_TIMEOUT - TICK).await;
    assert_eq!(s.sweep().await, []);
    s.granted(&other).await;
    s.advance(TICK).await;
    let (now, swept) = (s.now().await, s.sweep().await);
    assert_eq!(ids(&swept), [it.id().clone()]);
    assert_eq!(*swept[0].state(), State::Expired { lease, at: now, reason: EndReason::Unconfirmed });
    assert_eq!(s.get(it.id()).await.as_ref(), swept.first());
    assert_eq!(s.claim(&claim).await, Claimed::Empty);
    assert_eq!(s.take_back(&claim).await, Err(StoreError::Unknown));
    assert_eq!(s.counts("shop").await, (0, 0, 1), "it is never claimed again");
    assert_eq!(s.sweep().await, [], "an expiry is returned once");
}

pub(crate) async fn a_confirmed_claim_lasts_as_long_as_its_lease(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let it = s.granted(&new_long_claim()).await;
    s.confirm(&[it.id().clone()]).await;
    assert_eq!(s.store.next_deadline().await, Ok(Some(it.lease().unwrap().deadline())));
    s.advance(HOUR - TICK).await;
    assert_eq!(s.sweep().await, []);
    s.advance(TICK).await;
    let swept = s.sweep().await;
    assert!(matches!(swept[0].state(), State::Expired { reason: EndReason::Expired, .. }), "{swept:?}");
}

pub(crate) async fn many_claims_are_confirmed_in_one_call(s: &StoreFixture) {
    let mut all = Vec::new();
    for n in 0..300 {
        let of = if n % 3 == 0 { "blog" } else { "shop" };
        s.add_ready(of, "a").await;
        let claim = Claim { template: super::fixture::template(of), ..new_long_claim() };
        all.push(s.granted(&claim).await.id().clone());
    }
    let (warming, last) = (s.add_warming("shop", "a").await, all.pop().unwrap());
    all.insert(7, warming);
    s.confirm(&all).await;
    s.advance(CONFIRM_TIMEOUT).await;
    assert_eq!(ids(&s.sweep().await), [last]);
    s.confirm(&[]).await;
}

pub(crate) async fn of_an_undo_and_a_confirmation_one_wins(s: &StoreFixture) {
    for _ in 0..50 {
        s.add_ready("shop", "a").await;
        let claim = Claim { token: ClaimToken::random(), ..new_claim() };
        let it = s.granted(&claim).await;
        let id = [it.id().clone()];
        let (confirmed, back) = tokio::join!(s.store.confirm(&id), s.take_back(&claim));
        confirmed.unwrap();
        let state = s.state(it.id()).await;
        assert_eq!(state, if back.is_ok() { "ready" } else { "assigned" });
        match back {
            Ok(_) => drop(s.store.retire(it.id()).await.unwrap()),
            Err(_) => drop(s.store.release(it.id()).await.unwrap()),
        }
    }
}
