//! The transitions of an instance, from warming to gone.

use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::instance::{EndReason, Instance, InstanceId, State, TransitionRefused};
use try_it_now::store::{Claimed, StoreError};

use super::fixture::{MINUTE, StoreFixture, TTL, ids, new_claim, node, sorted, template};

fn refused<T>(answer: Result<T, StoreError>) -> TransitionRefused {
    match answer {
        Err(StoreError::Refused(refused)) => refused,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

pub(crate) async fn a_new_record_reads_back_as_it_was_inserted(s: &StoreFixture) {
    let record = Instance::warming(InstanceId::random(&template("shop")), node("b"), 77, Millis(12_345));
    s.store.insert(record.clone()).await.unwrap();
    assert_eq!(s.get(record.id()).await, Some(record));
}

pub(crate) async fn an_id_can_be_inserted_once(s: &StoreFixture) {
    let it = s.add_warming("shop", "a").await;
    let again = Instance::warming(it.clone(), node("b"), 2, s.now().await);
    let insert = || s.store.insert(again.clone());
    let first = s.get(&it).await;
    assert_eq!(insert().await, Err(StoreError::Exists));
    assert_eq!(s.get(&it).await, first);
    s.store.offer(&it, s.endpoint()).await.unwrap();
    assert_eq!(insert().await, Err(StoreError::Exists), "while ready");
    s.granted(&new_claim()).await;
    assert_eq!(insert().await, Err(StoreError::Exists), "while assigned");
    s.advance(TTL).await;
    assert_eq!(insert().await, Err(StoreError::Exists), "while overdue");
    s.sweep().await;
    assert_eq!(insert().await, Err(StoreError::Exists), "while expired");
}

pub(crate) async fn only_a_warming_record_can_be_inserted(s: &StoreFixture) {
    let id = InstanceId::random(&template("shop"));
    let ready = Instance::warming(id.clone(), node("a"), 1, s.now().await).offered(s.endpoint()).unwrap();
    assert_eq!(refused(s.store.insert(ready).await).from, "ready");
    assert_eq!(s.get(&id).await, None);
    assert_eq!(s.counts("shop").await, (0, 0, 0));
}

pub(crate) async fn an_unknown_instance_is_unknown_to_every_step(s: &StoreFixture) {
    for _ in ["in a template without records", "in a template with a record"] {
        let id = InstanceId::random(&template("shop"));
        assert_eq!(s.get(&id).await, None);
        assert_eq!(s.store.offer(&id, s.endpoint()).await, Err(StoreError::Unknown));
        assert_eq!(s.extend(&id, MINUTE, 9 * MINUTE).await, Err(StoreError::Unknown));
        assert_eq!(s.store.release(&id).await, Err(StoreError::Unknown));
        assert_eq!(s.store.retire(&id).await, Err(StoreError::Unknown));
        assert_eq!(s.store.withdraw(&id).await, Err(StoreError::Unknown));
        assert_eq!(s.store.fail(&id).await, Err(StoreError::Unknown));
        s.add_warming("shop", "a").await;
    }
}

pub(crate) async fn an_offer_makes_a_warming_instance_ready_once(s: &StoreFixture) {
    let (it, endpoint) = (s.add_warming("shop", "a").await, s.endpoint());
    let ready = s.store.offer(&it, endpoint).await.unwrap();
    assert_eq!(*ready.state(), State::Ready { endpoint });
    assert_eq!(ready.generation(), 2);
    assert_eq!(s.get(&it).await, Some(ready));
    let offer_again = async || refused(s.store.offer(&it, s.endpoint()).await).from;
    assert_eq!(offer_again().await, "ready");
    s.granted(&new_claim()).await;
    assert_eq!(offer_again().await, "assigned");
    s.advance(TTL).await;
    assert_eq!(offer_again().await, "expired");
}

pub(crate) async fn a_withdrawn_instance_is_not_claimed_until_it_is_offered_again(s: &StoreFixture) {
    let (first, second) = (s.add_ready("shop", "a").await, s.add_ready("shop", "a").await);
    let endpoint = match s.get(&first).await.unwrap().state() {
        State::Ready { endpoint } => *endpoint,
        other => panic!("{other:?}"),
    };
    let withdrawn = s.store.withdraw(&first).await.unwrap();
    assert_eq!((withdrawn.state(), withdrawn.generation()), (&State::Warming, 3));
    assert_eq!(s.counts("shop").await, (1, 1, 0));
    assert_eq!(refused(s.store.withdraw(&first).await).from, "warming");
    assert_eq!(s.granted(&new_claim()).await.id(), &second);
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
    assert_eq!(refused(s.store.withdraw(&second).await).from, "assigned");
    s.store.offer(&first, endpoint).await.unwrap();
    assert_eq!(s.granted(&new_claim()).await.id(), &first);
    s.advance(TTL).await;
    assert_eq!(refused(s.store.withdraw(&first).await).from, "expired", "overdue");
}

pub(crate) async fn an_unassigned_instance_can_be_retired(s: &StoreFixture) {
    for it in [s.add_warming("shop", "a").await, s.add_ready("shop", "a").await] {
        let before = s.get(&it).await;
        assert_eq!(s.store.retire(&it).await.ok(), before);
        assert_eq!(s.state(&it).await, "gone");
        assert_eq!(s.store.retire(&it).await, Err(StoreError::Unknown));
    }
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
    assert_eq!(s.counts("shop").await, (0, 0, 0));
}

pub(crate) async fn an_assigned_or_expired_instance_cannot_be_retired(s: &StoreFixture) {
    let it = s.add_assigned().await;
    assert_eq!(refused(s.store.retire(it.id()).await).from, "assigned");
    assert_eq!(s.get(it.id()).await, Some(it.clone()));
    s.advance(TTL).await;
    assert_eq!(refused(s.store.retire(it.id()).await).from, "expired", "overdue");
    s.sweep().await;
    assert_eq!(refused(s.store.retire(it.id()).await).from, "expired", "swept");
    assert_eq!(s.state(it.id()).await, "expired");
}

pub(crate) async fn an_unassigned_instance_that_fails_is_gone_and_never_claimed(s: &StoreFixture) {
    for it in [s.add_warming("shop", "a").await, s.add_ready("shop", "a").await] {
        let before = s.get(&it).await;
        assert_eq!(s.store.fail(&it).await.ok(), before);
        assert_eq!(s.state(&it).await, "gone");
        assert_eq!(s.store.fail(&it).await, Err(StoreError::Unknown));
    }
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
}

pub(crate) async fn an_assigned_instance_that_fails_is_expired_with_that_reason(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(MINUTE / 2).await;
    assert_eq!(s.store.fail(it.id()).await, Ok(it.clone()));
    let (now, after) = (s.now().await, s.get(it.id()).await.unwrap());
    let lease = *it.lease().unwrap();
    assert_eq!(*after.state(), State::Expired { lease, at: now, reason: EndReason::Failed });
    assert_eq!(after.generation(), it.generation() + 1);
    assert_eq!(s.store.fail(it.id()).await, Err(StoreError::Unknown), "twice");
    assert_eq!(s.store.release(it.id()).await, Err(StoreError::Unknown));
    assert_eq!(s.extend(it.id(), MINUTE, 9 * MINUTE).await, Err(StoreError::Unknown));
    s.advance(TTL).await;
    assert_eq!(s.sweep().await, [], "a failed instance does not expire a second time");
}

pub(crate) async fn a_failure_after_the_deadline_counts_as_an_expiry(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(TTL + Duration::from_secs(5)).await;
    assert_eq!(s.store.fail(it.id()).await, Err(StoreError::Unknown));
    let over = s.get(it.id()).await.unwrap();
    assert!(matches!(over.state(), State::Expired { reason: EndReason::Expired, .. }));
    assert_eq!(s.sweep().await, [over]);
    assert_eq!(s.store.fail(it.id()).await, Err(StoreError::Unknown));
}

pub(crate) async fn a_released_instance_is_gone_at_once(s: &StoreFixture) {
    let it = s.add_assigned().await;
    let (released, _) = s.store.release(it.id()).await.unwrap();
    assert_eq!(released, it);
    assert_eq!(s.state(it.id()).await, "gone");
    assert_eq!(s.all().await, []);
    assert_eq!(s.store.release(it.id()).await, Err(StoreError::Unknown));
    assert_eq!(s.extend(it.id(), MINUTE, 9 * MINUTE).await, Err(StoreError::Unknown));
    assert_eq!(s.store.fail(it.id()).await, Err(StoreError::Unknown));
    assert_eq!(s.store.retire(it.id()).await, Err(StoreError::Unknown));
    assert_eq!(s.store.next_deadline().await, Ok(None));
}

pub(crate) async fn only_an_assigned_instance_can_be_released(s: &StoreFixture) {
    let warming = s.add_warming("shop", "a").await;
    let overdue = s.add_assigned().await;
    s.advance(TTL).await;
    let ready = s.add_ready("shop", "a").await;
    for it in [&warming, &ready, overdue.id()] {
        let before = s.get(it).await;
        assert_eq!(s.store.release(it).await, Err(StoreError::Unknown));
        assert_eq!(s.get(it).await, before);
    }
}

pub(crate) async fn counts_follow_every_transition(s: &StoreFixture) {
    assert_eq!(s.counts("shop").await, (0, 0, 0));
    let (one, two) = (s.add_warming("shop", "a").await, s.add_warming("shop", "b").await);
    s.add_warming("blog", "a").await;
    assert_eq!(s.counts("shop").await, (2, 0, 0), "of one template, over all nodes");
    s.store.offer(&one, s.endpoint()).await.unwrap();
    s.store.offer(&two, s.endpoint()).await.unwrap();
    assert_eq!(s.counts("shop").await, (0, 2, 0));
    s.granted(&new_claim()).await;
    s.granted(&new_claim()).await;
    assert_eq!(s.counts("shop").await, (0, 0, 2));
    s.store.release(&one).await.unwrap();
    assert_eq!(s.counts("shop").await, (0, 0, 1));
    s.advance(TTL).await;
    s.sweep().await;
    assert_eq!(s.counts("shop").await, (0, 0, 0), "an expired instance is not counted");
}

pub(crate) async fn a_list_has_every_record_of_its_node_and_of_no_other(s: &StoreFixture) {
    let (mut on_a, mut on_b) = (Vec::new(), Vec::new());
    for n in 0..400 {
        let of = if n % 3 == 0 { "blog" } else { "shop" };
        match n % 2 {
            0 => on_a.push(s.add_warming(of, "a").await),
            _ => on_b.push(s.add_ready(of, "b").await),
        }
    }
    let assigned = s.granted(&new_claim()).await;
    for gone in on_a.drain(100..) {
        s.store.retire(&gone).await.unwrap();
    }
    for (name, mut expected) in [("a", on_a), ("b", on_b), ("c", Vec::new())] {
        let listed = sorted(s.store.list(&node(name)).await.unwrap());
        expected.sort();
        assert_eq!(ids(&listed), expected);
        for record in listed {
            assert_eq!(s.get(record.id()).await.as_ref(), Some(&record));
        }
    }
    assert_eq!(s.state(assigned.id()).await, "assigned");
}

pub(crate) async fn the_store_answers_a_ping(s: &StoreFixture) {
    assert_eq!(s.store.ping().await, Ok(()));
}
