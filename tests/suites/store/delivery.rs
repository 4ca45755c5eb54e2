//! What is delivered, and what becomes of what is not.

use std::time::Duration;

use try_it_now::instance::{ClaimToken, EndReason, Limits, State};
use try_it_now::store::{Claim, Claimed, Cursor, RouteChange, StoreError, UNCONFIRMED_FOR};

use super::fixture::{HOUR, MINUTE, NO_LIMITS, Stage, TTL, ids, wish};

const TICK: Duration = Duration::from_millis(1);
const LIMITS: Limits = Limits { hourly: 2, daily: 3 };

/// For longer than it may be unconfirmed.
fn long_wish() -> Claim {
    Claim { ttl: HOUR, ..wish() }
}

pub(crate) async fn a_claim_taken_back_leaves_all_as_it_was(s: &Stage) {
    let id = s.ready("shop", "b").await;
    let before = s.get(&id).await.unwrap();
    let wish = wish();
    let held = s.granted(&wish).await;
    let (_, cursor) = s.snapshot().await;
    let back = s.take_back(&wish).await.unwrap();
    assert_eq!((back.life(), back.node()), (before.life(), before.node()));
    assert_eq!(back.generation(), held.generation() + 1);
    assert_eq!(s.get(&id).await.as_ref(), Some(&back));
    assert_eq!(s.counts("shop").await, (0, 1, 0));
    assert_eq!(s.store.next_deadline().await, Ok(None));
    let told = s.events(cursor).await;
    assert_eq!(told, [(Cursor(cursor.0 + 1), RouteChange::Set(back))], "the proxies are told");
    assert_eq!(s.snapshot().await.0.len(), 0);
}

pub(crate) async fn what_is_taken_back_is_the_next_to_be_given(s: &Stage) {
    let (one, two) = (s.ready("shop", "b").await, s.ready("shop", "b").await);
    s.ready("shop", "b").await;
    let (first, second) = (wish(), wish());
    s.granted(&first).await;
    s.granted(&second).await;
    assert_eq!(*s.take_back(&second).await.unwrap().id(), two);
    assert_eq!(*s.take_back(&first).await.unwrap().id(), one);
    let own = s.ready("shop", "a").await;
    assert_eq!(*s.granted(&wish()).await.id(), own, "but its own node comes first");
    for expected in [one, two] {
        assert_eq!(*s.granted(&wish()).await.id(), expected);
    }
}

pub(crate) async fn a_claim_taken_back_is_not_charged(s: &Stage) {
    let limited = || Claim { limits: LIMITS, ..wish() };
    for _ in 0..3 {
        s.ready("shop", "a").await;
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
    assert_eq!((quota(&fresh).remaining, quota(&fresh).reset), (1, HOUR), "no window was open");
    s.advance(MINUTE).await;
    let second = limited();
    assert_eq!(quota(&s.claim(&second).await).remaining, 0);
    assert!(matches!(s.claim(&limited()).await, Claimed::RateLimited(_)));
    s.take_back(&second).await.unwrap();
    let again = s.claim(&limited()).await;
    assert_eq!((quota(&again).remaining, quota(&again).reset), (0, HOUR - MINUTE), "the same window");
    let free = Claim { limits: NO_LIMITS, ..wish() };
    s.claim(&free).await;
    s.take_back(&free).await.unwrap();
    assert!(
        matches!(s.claim(&limited()).await, Claimed::RateLimited(_)),
        "what was not charged is not given"
    );
}

pub(crate) async fn a_token_whose_claim_was_taken_back_gets_nothing(s: &Stage) {
    s.ready("shop", "a").await;
    let wish = wish();
    s.granted(&wish).await;
    s.take_back(&wish).await.unwrap();
    assert_eq!(s.claim(&wish).await, Claimed::Empty);
    assert_eq!(s.take_back(&wish).await, Err(StoreError::Unknown), "twice");
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_claim_that_is_taken_back_before_it_arrives_gets_nothing(s: &Stage) {
    s.ready("shop", "a").await;
    let late = wish();
    assert_eq!(s.take_back(&late).await, Err(StoreError::Unknown));
    assert_eq!(s.claim(&late).await, Claimed::Empty);
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn what_is_confirmed_is_not_taken_back(s: &Stage) {
    s.ready("shop", "a").await;
    let wish = wish();
    let it = s.granted(&wish).await;
    s.confirm(&[it.id().clone()]).await;
    s.confirm(&[it.id().clone()]).await;
    assert_eq!(s.take_back(&wish).await, Err(StoreError::Unknown));
    assert_eq!(s.get(it.id()).await, Some(it), "and to confirm it changes nothing");
}

pub(crate) async fn what_is_extended_is_confirmed(s: &Stage) {
    s.ready("shop", "a").await;
    let wish = long_wish();
    let it = s.granted(&wish).await;
    s.extend(it.id(), MINUTE, 9 * HOUR).await.unwrap();
    assert_eq!(s.take_back(&wish).await, Err(StoreError::Unknown));
    s.advance(UNCONFIRMED_FOR).await;
    assert_eq!(s.sweep().await, []);
    assert_eq!(s.state(it.id()).await, "assigned");
}

pub(crate) async fn what_has_ended_is_neither_confirmed_nor_taken_back(s: &Stage) {
    for _ in 0..3 {
        s.ready("shop", "a").await;
    }
    let (released, failed, overdue) = (wish(), wish(), wish());
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

pub(crate) async fn an_unconfirmed_claim_ends_after_a_minute(s: &Stage) {
    for _ in 0..2 {
        s.ready("shop", "a").await;
    }
    let (wish, other) = (long_wish(), long_wish());
    let it = s.granted(&wish).await;
    let lease = *it.lease().unwrap();
    assert_eq!(s.store.next_deadline().await, Ok(Some(lease.assigned_at() + UNCONFIRMED_FOR)));
    s.advance(UNCONFIRMED_FOR - TICK).await;
    assert_eq!(s.sweep().await, []);
    s.granted(&other).await;
    s.advance(TICK).await;
    let (now, swept) = (s.now().await, s.sweep().await);
    assert_eq!(ids(&swept), [it.id().clone()]);
    assert_eq!(*swept[0].life(), State::Expired { lease, at: now, ending: EndReason::Failed });
    assert_eq!(s.get(it.id()).await.as_ref(), swept.first());
    assert_eq!(s.claim(&wish).await, Claimed::Empty);
    assert_eq!(s.take_back(&wish).await, Err(StoreError::Unknown));
    assert_eq!(s.counts("shop").await, (0, 0, 1), "never handed out again");
    assert_eq!(s.sweep().await, [], "told once");
}

pub(crate) async fn a_confirmed_claim_lasts_as_long_as_its_lease(s: &Stage) {
    s.ready("shop", "a").await;
    let it = s.granted(&long_wish()).await;
    s.confirm(&[it.id().clone()]).await;
    assert_eq!(s.store.next_deadline().await, Ok(Some(it.lease().unwrap().deadline())));
    s.advance(HOUR - TICK).await;
    assert_eq!(s.sweep().await, []);
    s.advance(TICK).await;
    let swept = s.sweep().await;
    assert!(matches!(swept[0].life(), State::Expired { ending: EndReason::Expired, .. }), "{swept:?}");
}

pub(crate) async fn many_are_confirmed_at_once(s: &Stage) {
    let mut all = Vec::new();
    for n in 0..300 {
        let of = if n % 3 == 0 { "blog" } else { "shop" };
        s.ready(of, "a").await;
        let claim = Claim { template: super::fixture::template(of), ..long_wish() };
        all.push(s.granted(&claim).await.id().clone());
    }
    let (nobody, last) = (s.warming("shop", "a").await, all.pop().unwrap());
    all.insert(7, nobody);
    s.confirm(&all).await;
    s.advance(UNCONFIRMED_FOR).await;
    assert_eq!(ids(&s.sweep().await), [last]);
    s.confirm(&[]).await;
}

pub(crate) async fn of_a_taking_back_and_a_confirmation_one_wins(s: &Stage) {
    for _ in 0..50 {
        s.ready("shop", "a").await;
        let claim = Claim { token: ClaimToken::random(), ..wish() };
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
