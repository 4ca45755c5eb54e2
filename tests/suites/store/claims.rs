//! Which claim gets which instance.

use std::time::Duration;

use try_it_now::instance::{RETENTION, State};
use try_it_now::store::Claimed;

use super::fixture::{HOUR, MINUTE, StoreFixture, TTL, new_claim, node, template};

pub(crate) async fn a_claim_without_a_ready_instance_is_empty(s: &StoreFixture) {
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty, "unknown template");
    s.add_warming("shop", "a").await;
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty, "only a warming instance");
    s.add_assigned().await;
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty, "only an assigned instance");
}

pub(crate) async fn the_lease_is_as_claimed(s: &StoreFixture) {
    let ready = s.add_ready("shop", "b").await;
    let before = s.get(&ready).await.unwrap();
    let mut claim = new_claim();
    claim.ttl = 7 * MINUTE;
    let it = s.granted(&claim).await;
    let (State::Ready { endpoint: offered }, State::Assigned { endpoint, lease, visitor: None }) =
        (before.state(), it.state())
    else {
        panic!("{it:?}")
    };
    assert_eq!(endpoint, offered);
    assert_eq!((it.id(), it.node(), it.revision()), (&ready, &node("b"), 1));
    assert_eq!(it.generation(), before.generation() + 1);
    let now = s.now().await;
    assert_eq!((lease.token(), lease.assigned_at(), lease.deadline()), (claim.token, now, now + claim.ttl));
    assert_eq!(s.get(&ready).await, Some(it));
}

pub(crate) async fn the_instance_that_was_ready_first_is_claimed_first(s: &StoreFixture) {
    let first_warming = s.add_warming("shop", "a").await;
    let (one, two, three) =
        (s.add_ready("shop", "a").await, s.add_ready("shop", "a").await, s.add_ready("shop", "a").await);
    s.store.offer(&first_warming, s.endpoint()).await.unwrap();
    s.store.retire(&two).await.unwrap();
    for expected in [one, three, first_warming] {
        assert_eq!(*s.granted(&new_claim()).await.id(), expected);
    }
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
}

pub(crate) async fn a_claim_prefers_its_own_node_and_then_the_instance_that_has_been_ready_longest(
    s: &StoreFixture,
) {
    let b1 = s.add_ready("shop", "b").await;
    let c1 = s.add_ready("shop", "c").await;
    let a1 = s.add_ready("shop", "a").await;
    let b2 = s.add_ready("shop", "b").await;
    let a2 = s.add_ready("shop", "a").await;
    for expected in [a1, a2, b1, c1, b2] {
        assert_eq!(*s.granted(&new_claim()).await.id(), expected);
    }
}

pub(crate) async fn a_claim_never_gets_an_instance_of_another_template(s: &StoreFixture) {
    s.add_ready("blog", "a").await;
    s.add_warming("shop", "a").await;
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
    assert_eq!(s.counts("blog").await, (0, 1, 0));
}

pub(crate) async fn a_repeated_claim_gets_the_same_instance(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    s.add_ready("shop", "a").await;
    let (one, other) = (new_claim(), new_claim());
    let first = s.granted(&one).await;
    assert_eq!(s.granted(&one).await, first);
    let second = s.granted(&other).await;
    assert_ne!(first.id(), second.id());
    s.advance(TTL / 2).await;
    let mut again = one.clone();
    (again.ttl, again.node) = (HOUR, node("c"));
    assert_eq!(s.granted(&again).await, first, "whatever else the repeated claim contains");
    assert_eq!(s.granted(&other).await, second);
}

pub(crate) async fn a_repeated_claim_sees_the_instance_as_it_is_now(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let claim = new_claim();
    let it = s.granted(&claim).await;
    let longer = s.extend(it.id(), MINUTE, HOUR).await.unwrap();
    s.advance(TTL).await;
    assert_eq!(s.granted(&claim).await, longer, "past the first deadline");
}

pub(crate) async fn a_claim_that_was_empty_can_be_repeated(s: &StoreFixture) {
    let claim = new_claim();
    assert_eq!(s.claim(&claim).await, Claimed::Empty);
    let it = s.add_ready("shop", "a").await;
    assert_eq!(*s.granted(&claim).await.id(), it);
}

pub(crate) async fn a_claim_repeated_after_a_release_is_empty(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    let claim = new_claim();
    let it = s.granted(&claim).await;
    s.store.release(it.id()).await.unwrap();
    s.add_ready("shop", "a").await;
    assert_eq!(s.claim(&claim).await, Claimed::Empty);
    s.advance(RETENTION - Duration::from_millis(1)).await;
    s.sweep().await;
    assert_eq!(s.claim(&claim).await, Claimed::Empty, "some minutes later too");
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_claim_repeated_after_an_expiry_is_empty(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    s.add_ready("shop", "a").await;
    let claim = new_claim();
    s.granted(&claim).await;
    s.advance(TTL).await;
    assert_eq!(s.claim(&claim).await, Claimed::Empty, "overdue");
    s.sweep().await;
    assert_eq!(s.claim(&claim).await, Claimed::Empty, "swept");
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_claim_repeated_after_a_failure_is_empty(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    s.add_ready("shop", "a").await;
    let claim = new_claim();
    let it = s.granted(&claim).await;
    s.store.fail(it.id()).await.unwrap();
    assert_eq!(s.claim(&claim).await, Claimed::Empty);
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_token_can_be_used_again_some_time_after_its_instance_ended(s: &StoreFixture) {
    let (released, expired) = (new_claim(), new_claim());
    s.add_ready("shop", "a").await;
    s.add_ready("shop", "a").await;
    let it = s.granted(&released).await;
    s.granted(&expired).await;
    s.store.release(it.id()).await.unwrap();
    s.advance(TTL).await;
    s.sweep().await;
    s.advance(RETENTION).await;
    s.sweep().await;
    s.add_ready("shop", "a").await;
    s.add_ready("shop", "a").await;
    let (one, two) = (s.granted(&released).await, s.granted(&expired).await);
    assert_ne!(one.id(), two.id());
    let again = s.granted(&released).await;
    assert_eq!(again, one, "the token is known again");
    assert_eq!(again.id().template(), template("shop").as_str());
}
