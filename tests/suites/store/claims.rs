//! Who gets which instance.

use std::time::Duration;

use try_it_now::instance::{RETENTION, State};
use try_it_now::store::Claimed;

use super::fixture::{HOUR, MINUTE, Stage, TTL, node, template, wish};

pub(crate) async fn nothing_ready_is_empty(s: &Stage) {
    assert_eq!(s.claim(&wish()).await, Claimed::Empty, "no such template");
    s.warming("shop", "a").await;
    assert_eq!(s.claim(&wish()).await, Claimed::Empty, "only a warming one");
    s.assigned().await;
    assert_eq!(s.claim(&wish()).await, Claimed::Empty, "only one that somebody has");
}

pub(crate) async fn the_lease_is_as_claimed(s: &Stage) {
    let ready = s.ready("shop", "b").await;
    let before = s.get(&ready).await.unwrap();
    let mut wish = wish();
    wish.ttl = 7 * MINUTE;
    let it = s.granted(&wish).await;
    let (State::Ready { endpoint: offered }, State::Assigned { endpoint, lease }) =
        (before.life(), it.life())
    else {
        panic!("{it:?}")
    };
    assert_eq!(endpoint, offered);
    assert_eq!((it.id(), it.node(), it.revision()), (&ready, &node("b"), 1));
    assert_eq!(it.generation(), before.generation() + 1);
    let now = s.now().await;
    assert_eq!((lease.token(), lease.assigned_at(), lease.deadline()), (wish.token, now, now + wish.ttl));
    assert_eq!(s.get(&ready).await, Some(it));
}

pub(crate) async fn the_first_ready_is_the_first_given(s: &Stage) {
    let first_warming = s.warming("shop", "a").await;
    let (one, two, three) =
        (s.ready("shop", "a").await, s.ready("shop", "a").await, s.ready("shop", "a").await);
    s.store.offer(&first_warming, s.endpoint()).await.unwrap();
    s.store.retire(&two).await.unwrap();
    for expected in [one, three, first_warming] {
        assert_eq!(*s.granted(&wish()).await.id(), expected);
    }
    assert_eq!(s.claim(&wish()).await, Claimed::Empty);
}

pub(crate) async fn the_own_node_comes_first_and_then_the_longest_ready_of_the_others(s: &Stage) {
    let b1 = s.ready("shop", "b").await;
    let c1 = s.ready("shop", "c").await;
    let a1 = s.ready("shop", "a").await;
    let b2 = s.ready("shop", "b").await;
    let a2 = s.ready("shop", "a").await;
    for expected in [a1, a2, b1, c1, b2] {
        assert_eq!(*s.granted(&wish()).await.id(), expected);
    }
}

pub(crate) async fn a_template_is_not_served_with_anothers_instances(s: &Stage) {
    s.ready("blog", "a").await;
    s.warming("shop", "a").await;
    assert_eq!(s.claim(&wish()).await, Claimed::Empty);
    assert_eq!(s.counts("blog").await, (0, 1, 0));
}

pub(crate) async fn a_repeated_claim_gets_the_same_instance(s: &Stage) {
    s.ready("shop", "a").await;
    s.ready("shop", "a").await;
    let (one, other) = (wish(), wish());
    let first = s.granted(&one).await;
    assert_eq!(s.granted(&one).await, first);
    let second = s.granted(&other).await;
    assert_ne!(first.id(), second.id());
    s.advance(TTL / 2).await;
    let mut again = one.clone();
    (again.ttl, again.node) = (HOUR, node("c"));
    assert_eq!(s.granted(&again).await, first, "whatever else the repetition says");
    assert_eq!(s.granted(&other).await, second);
}

pub(crate) async fn a_repeated_claim_sees_the_instance_as_it_is_now(s: &Stage) {
    s.ready("shop", "a").await;
    let wish = wish();
    let it = s.granted(&wish).await;
    let longer = s.extend(it.id(), MINUTE, HOUR).await.unwrap();
    s.advance(TTL).await;
    assert_eq!(s.granted(&wish).await, longer, "past the first deadline");
}

pub(crate) async fn a_claim_that_found_nothing_may_be_repeated(s: &Stage) {
    let wish = wish();
    assert_eq!(s.claim(&wish).await, Claimed::Empty);
    let it = s.ready("shop", "a").await;
    assert_eq!(*s.granted(&wish).await.id(), it);
}

pub(crate) async fn a_claim_repeated_after_a_release_gets_nothing(s: &Stage) {
    s.ready("shop", "a").await;
    let wish = wish();
    let it = s.granted(&wish).await;
    s.store.release(it.id()).await.unwrap();
    s.ready("shop", "a").await;
    assert_eq!(s.claim(&wish).await, Claimed::Empty);
    s.advance(RETENTION - Duration::from_millis(1)).await;
    s.sweep().await;
    assert_eq!(s.claim(&wish).await, Claimed::Empty, "nor some minutes later");
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_claim_repeated_after_an_expiry_gets_nothing(s: &Stage) {
    s.ready("shop", "a").await;
    s.ready("shop", "a").await;
    let wish = wish();
    s.granted(&wish).await;
    s.advance(TTL).await;
    assert_eq!(s.claim(&wish).await, Claimed::Empty, "overdue");
    s.sweep().await;
    assert_eq!(s.claim(&wish).await, Claimed::Empty, "swept");
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_claim_repeated_after_a_failure_gets_nothing(s: &Stage) {
    s.ready("shop", "a").await;
    s.ready("shop", "a").await;
    let wish = wish();
    let it = s.granted(&wish).await;
    s.store.fail(it.id()).await.unwrap();
    assert_eq!(s.claim(&wish).await, Claimed::Empty);
    assert_eq!(s.counts("shop").await, (0, 1, 0));
}

pub(crate) async fn a_token_is_forgotten_some_time_after_its_instance(s: &Stage) {
    let (released, expired) = (wish(), wish());
    s.ready("shop", "a").await;
    s.ready("shop", "a").await;
    let it = s.granted(&released).await;
    s.granted(&expired).await;
    s.store.release(it.id()).await.unwrap();
    s.advance(TTL).await;
    s.sweep().await;
    s.advance(RETENTION).await;
    s.sweep().await;
    s.ready("shop", "a").await;
    s.ready("shop", "a").await;
    let (one, two) = (s.granted(&released).await, s.granted(&expired).await);
    assert_ne!(one.id(), two.id());
    let again = s.granted(&released).await;
    assert_eq!(again, one, "and known again");
    assert_eq!(again.id().template(), template("shop").as_str());
}
