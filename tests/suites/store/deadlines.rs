//! Leases that are extended and that end, and how long an expired instance stays on record.

use std::time::Duration;

use try_it_now::instance::{EndReason, ExtendRefused, RETENTION, State};
use try_it_now::store::{Claimed, StoreError};

use super::fixture::{HOUR, MINUTE, StoreFixture, TTL, ids, new_claim, node, template};

const TICK: Duration = Duration::from_millis(1);

pub(crate) async fn an_extension_counts_from_the_deadline(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(TTL / 2).await;
    let longer = s.extend(it.id(), 5 * MINUTE, HOUR).await.unwrap();
    let (old, new) = (it.lease().unwrap(), longer.lease().unwrap());
    assert_eq!(new.deadline(), old.deadline() + 5 * MINUTE);
    assert_eq!((new.token(), new.assigned_at()), (old.token(), old.assigned_at()));
    assert_eq!(longer.generation(), it.generation() + 1);
    assert_eq!(s.get(it.id()).await, Some(longer));
}

pub(crate) async fn an_extension_beyond_the_maximum_ttl_changes_nothing(s: &StoreFixture) {
    let it = s.add_assigned().await;
    let longest = TTL + MINUTE;
    let refused = StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(longest));
    assert_eq!(s.extend(it.id(), MINUTE + TICK, longest).await, Err(refused.clone()));
    assert_eq!(s.get(it.id()).await, Some(it.clone()));
    let longer = s.extend(it.id(), MINUTE, longest).await.unwrap();
    assert_eq!(longer.lease().unwrap().deadline(), it.lease().unwrap().assigned_at() + longest);
    assert_eq!(s.extend(it.id(), TICK, longest).await, Err(refused));
    assert_eq!(s.get(it.id()).await, Some(longer));
}

pub(crate) async fn only_a_running_lease_can_be_extended(s: &StoreFixture) {
    let over = s.add_assigned().await;
    s.advance(TTL).await;
    let (warming, ready) = (s.add_warming("shop", "a").await, s.add_ready("shop", "a").await);
    for _ in ["overdue", "swept"] {
        for it in [&warming, &ready, over.id()] {
            let before = s.get(it).await;
            assert_eq!(s.extend(it, MINUTE, HOUR).await, Err(StoreError::Unknown));
            assert_eq!(s.get(it).await, before);
        }
        s.sweep().await;
    }
}

pub(crate) async fn an_overdue_instance_reads_as_expired_before_any_sweep(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(TTL - TICK).await;
    assert_eq!(s.state(it.id()).await, "assigned");
    s.advance(TICK).await;
    let seen = s.get(it.id()).await.unwrap();
    let lease = *it.lease().unwrap();
    assert_eq!(*seen.state(), State::Expired { lease, at: lease.deadline(), reason: EndReason::Expired });
    assert_eq!(s.store.list(&node("a")).await.unwrap().as_slice(), std::slice::from_ref(&seen));
    assert_eq!(s.store.routes().await.unwrap().0, [seen]);
    assert_eq!(s.extend(it.id(), MINUTE, HOUR).await, Err(StoreError::Unknown));
    assert_eq!(s.store.release(it.id()).await, Err(StoreError::Unknown));
}

pub(crate) async fn a_sweep_stores_what_readers_saw_before_it(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(TTL + MINUTE).await;
    let before = s.get(it.id()).await;
    let swept = s.sweep().await;
    assert_eq!(swept.first(), before.as_ref());
    assert_eq!(s.get(it.id()).await, before);
}

pub(crate) async fn a_sweep_returns_what_expired_once(s: &StoreFixture) {
    assert_eq!(s.sweep().await, []);
    let (one, two) = (s.add_assigned().await, s.add_assigned().await);
    s.add_warming("shop", "a").await;
    s.add_ready("shop", "a").await;
    s.advance(TTL - TICK).await;
    assert_eq!(s.sweep().await, []);
    s.advance(TICK).await;
    let mut expected = vec![one.id().clone(), two.id().clone()];
    expected.sort();
    assert_eq!(ids(&s.sweep().await), expected);
    assert_eq!(s.sweep().await, []);
    assert_eq!(s.counts("shop").await, (1, 1, 0));
}

pub(crate) async fn a_sweep_handles_no_more_than_its_limit(s: &StoreFixture) {
    let mut in_order = Vec::new();
    for _ in 0..7 {
        in_order.push(s.add_assigned().await.id().clone());
        s.advance(TICK).await;
    }
    s.advance(TTL).await;
    assert_eq!(s.store.sweep(0).await.unwrap(), []);
    let mut swept = Vec::new();
    for expected in [3, 3, 1, 0] {
        let some = s.store.sweep(3).await.unwrap();
        assert_eq!(some.len(), expected);
        swept.extend(some.into_iter().map(|record| record.id().clone()));
    }
    assert_eq!(swept, in_order, "in the order of their deadlines");
    s.advance(RETENTION).await;
    for left in [4, 1, 0] {
        assert_eq!(s.store.sweep(3).await.unwrap(), [], "a removed record was returned when it expired");
        assert_eq!(s.all().await.len(), left);
    }
}

pub(crate) async fn a_small_limit_starves_no_template(s: &StoreFixture) {
    for of in ["shop", "blog", "shop", "blog"] {
        s.add_ready(of, "a").await;
        let mut claim = new_claim();
        claim.template = template(of);
        s.granted(&claim).await;
        s.advance(TICK).await;
    }
    s.advance(TTL).await;
    let mut expired = Vec::new();
    for _ in 0..4 {
        expired.extend(s.store.sweep(1).await.unwrap());
    }
    assert_eq!(expired.len(), 4);
    assert_ne!(expired[0].id().template(), expired[1].id().template());
}

pub(crate) async fn an_extended_instance_is_not_swept_at_its_first_deadline(s: &StoreFixture) {
    let it = s.add_assigned().await;
    let longer = s.extend(it.id(), MINUTE, HOUR).await.unwrap();
    s.advance(TTL).await;
    assert_eq!(s.sweep().await, []);
    assert_eq!(s.get(it.id()).await, Some(longer));
    s.advance(MINUTE).await;
    assert_eq!(s.sweep().await.len(), 1);
}

pub(crate) async fn an_expired_instance_is_known_for_ten_minutes_and_then_removed(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(TTL).await;
    s.sweep().await;
    s.advance(RETENTION - TICK).await;
    s.sweep().await;
    assert_eq!(s.state(it.id()).await, "expired");
    s.advance(TICK).await;
    assert_eq!(s.sweep().await, []);
    assert_eq!(s.state(it.id()).await, "gone");
    assert_eq!(s.store.next_deadline().await, Ok(None));
}

pub(crate) async fn a_failed_instance_is_known_for_ten_minutes_too(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.store.fail(it.id()).await.unwrap();
    s.advance(RETENTION - TICK).await;
    s.sweep().await;
    assert_eq!(s.state(it.id()).await, "expired");
    s.advance(TICK).await;
    s.sweep().await;
    assert_eq!(s.state(it.id()).await, "gone");
}

pub(crate) async fn an_instance_long_overdue_expires_and_is_removed_in_one_sweep(s: &StoreFixture) {
    let it = s.add_assigned().await;
    s.advance(TTL + RETENTION).await;
    assert_eq!(ids(&s.sweep().await), [it.id().clone()]);
    assert_eq!(s.state(it.id()).await, "gone");
}

pub(crate) async fn the_next_deadline_is_the_earliest(s: &StoreFixture) {
    let next = async || s.store.next_deadline().await.unwrap();
    s.add_ready("shop", "a").await;
    s.add_ready("blog", "b").await;
    s.add_warming("blog", "b").await;
    assert_eq!(next().await, None);
    let shop = s.granted(&new_claim()).await;
    let shop_over = shop.lease().unwrap().deadline();
    assert_eq!(next().await, Some(shop_over));
    let mut sooner = new_claim();
    (sooner.template, sooner.ttl) = (template("blog"), TTL / 2);
    let blog = s.granted(&sooner).await;
    let blog_over = blog.lease().unwrap().deadline();
    assert_eq!(next().await, Some(blog_over));
    s.extend(blog.id(), TTL, HOUR).await.unwrap();
    assert_eq!(next().await, Some(shop_over));
    s.advance(TTL).await;
    assert_eq!(next().await, Some(shop_over), "it is overdue");
    s.sweep().await;
    assert_eq!(next().await, Some(blog_over + TTL));
    s.store.release(blog.id()).await.unwrap();
    assert_eq!(next().await, Some(shop_over + RETENTION), "the time at which the record is removed");
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
}
