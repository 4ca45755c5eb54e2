//! How many instances one visitor may have, and how often a visitor may extend them.

use std::time::Duration;

use try_it_now::instance::{ExtendRefused, Instance, RateLimited, RateLimits, ReachedLimit};
use try_it_now::store::{CONFIRM_TIMEOUT, Claim, Claimed, Quota, StoreError, Visitor};

use super::fixture::{HOUR, MINUTE, NO_LIMITS, StoreFixture, TTL, new_claim, node, template};
use super::nodes::node_info;

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIMITS: RateLimits = RateLimits { hourly: 2, daily: 3, concurrent: 0 };

/// Returns a new claim of the same visitor, under [`LIMITS`].
fn new_limited_claim() -> Claim {
    Claim { limits: LIMITS, ..new_claim() }
}

/// Adds a ready instance and claims it.
async fn add_and_claim(s: &StoreFixture, claim: &Claim) -> Claimed {
    s.add_ready(claim.template.as_str(), "a").await;
    s.claim(claim).await
}

fn quota(claimed: &Claimed) -> Option<Quota> {
    match claimed {
        Claimed::Granted { quota, .. } => *quota,
        other => panic!("{other:?}"),
    }
}

fn remaining(claimed: &Claimed) -> u32 {
    quota(claimed).unwrap().remaining
}

fn rate_limited(retry_after: Duration) -> Claimed {
    Claimed::RateLimited(RateLimited { limits: LIMITS, reached: ReachedLimit::Window, retry_after })
}

pub(crate) async fn a_visitor_gets_what_the_limit_allows_and_is_then_refused_with_a_wait(s: &StoreFixture) {
    assert_eq!(remaining(&add_and_claim(s, &new_limited_claim()).await), 1);
    s.advance(HOUR / 4).await;
    assert_eq!(remaining(&add_and_claim(s, &new_limited_claim()).await), 0);
    assert_eq!(add_and_claim(s, &new_limited_claim()).await, rate_limited(HOUR * 3 / 4));
    s.advance(HOUR * 3 / 4 - Duration::from_millis(1)).await;
    assert_eq!(s.claim(&new_limited_claim()).await, rate_limited(Duration::from_millis(1)));
    s.advance(Duration::from_millis(1)).await;
    assert!(s.claim(&new_limited_claim()).await.instance().is_some());
}

pub(crate) async fn the_quota_is_that_of_the_tighter_window(s: &StoreFixture) {
    let first = add_and_claim(s, &new_limited_claim()).await;
    assert_eq!(quota(&first), Some(Quota { limit: 2, remaining: 1, reset: HOUR }));
    add_and_claim(s, &new_limited_claim()).await;
    s.advance(HOUR).await;
    let third = add_and_claim(s, &new_limited_claim()).await;
    assert_eq!(quota(&third), Some(Quota { limit: 3, remaining: 0, reset: DAY - HOUR }));
}

pub(crate) async fn the_daily_limit_holds(s: &StoreFixture) {
    for _ in 0..3 {
        assert!(add_and_claim(s, &new_limited_claim()).await.instance().is_some());
        s.advance(HOUR).await;
    }
    assert_eq!(add_and_claim(s, &new_limited_claim()).await, rate_limited(DAY - 3 * HOUR));
    s.advance(DAY - 3 * HOUR).await;
    assert!(s.claim(&new_limited_claim()).await.instance().is_some());
}

pub(crate) async fn without_limits_nothing_is_counted(s: &StoreFixture) {
    for _ in 0..10 {
        assert_eq!(quota(&add_and_claim(s, &Claim { limits: NO_LIMITS, ..new_claim() }).await), None);
    }
    assert_eq!(remaining(&add_and_claim(s, &new_limited_claim()).await), 1);
}

pub(crate) async fn an_empty_claim_is_not_charged(s: &StoreFixture) {
    for _ in 0..10 {
        assert_eq!(s.claim(&new_limited_claim()).await, Claimed::Empty);
    }
    assert_eq!(remaining(&add_and_claim(s, &new_limited_claim()).await), 1);
}

pub(crate) async fn a_refused_claim_is_not_charged_and_may_be_repeated(s: &StoreFixture) {
    add_and_claim(s, &new_limited_claim()).await;
    add_and_claim(s, &new_limited_claim()).await;
    let refused = new_limited_claim();
    for _ in 0..10 {
        assert_eq!(add_and_claim(s, &refused).await, rate_limited(HOUR));
    }
    s.advance(HOUR).await;
    assert_eq!(remaining(&s.claim(&refused).await), 0, "the third claim of the day");
}

pub(crate) async fn a_repeated_claim_is_charged_once(s: &StoreFixture) {
    let claim = new_limited_claim();
    let first = add_and_claim(s, &claim).await;
    for _ in 0..5 {
        assert_eq!(s.claim(&claim).await, first);
    }
    let second = new_limited_claim();
    assert_eq!(remaining(&add_and_claim(s, &second).await), 0);
    assert_eq!(
        remaining(&s.claim(&second).await),
        0,
        "a repeated claim is answered even when the quota is used up"
    );
}

pub(crate) async fn a_release_refunds_no_charge(s: &StoreFixture) {
    for _ in 0..2 {
        let claimed = add_and_claim(s, &new_limited_claim()).await;
        s.store.release(claimed.instance().unwrap().id()).await.unwrap();
    }
    assert_eq!(add_and_claim(s, &new_limited_claim()).await, rate_limited(HOUR));
}

pub(crate) async fn visitors_are_counted_separately(s: &StoreFixture) {
    add_and_claim(s, &new_limited_claim()).await;
    add_and_claim(s, &new_limited_claim()).await;
    let other = Claim { visitor: Visitor::new("2001:db8::/64"), ..new_limited_claim() };
    assert_eq!(remaining(&add_and_claim(s, &other).await), 1);
    assert_eq!(s.claim(&new_limited_claim()).await, rate_limited(HOUR));
}

pub(crate) async fn templates_are_counted_separately(s: &StoreFixture) {
    add_and_claim(s, &new_limited_claim()).await;
    add_and_claim(s, &new_limited_claim()).await;
    let other = Claim { template: template("blog"), ..new_limited_claim() };
    assert_eq!(remaining(&add_and_claim(s, &other).await), 1);
    assert_eq!(add_and_claim(s, &new_limited_claim()).await, rate_limited(HOUR));
}

pub(crate) async fn a_limit_is_reported_even_when_nothing_is_ready(s: &StoreFixture) {
    add_and_claim(s, &new_limited_claim()).await;
    add_and_claim(s, &new_limited_claim()).await;
    assert_eq!(s.counts("shop").await.1, 0);
    assert_eq!(s.claim(&new_limited_claim()).await, rate_limited(HOUR));
}

/// The visitor at one of the narrow networks of a wide one that may use `factor` times each limit.
fn visitor_in(wide: u8, narrow: u8, factor: u32) -> Visitor {
    Visitor::new(format!("2001:db8:{wide}:{narrow}::/64")).within(factor, &format!("2001:db8:{wide}::/56"))
}

pub(crate) async fn visitors_who_share_a_wide_network_share_its_multiple_of_the_limits(s: &StoreFixture) {
    let claim = |wide, narrow| Claim { visitor: visitor_in(wide, narrow, 2), ..new_limited_claim() };
    for (narrow, left) in [(1, 1), (2, 1), (3, 1)] {
        assert_eq!(remaining(&add_and_claim(s, &claim(1, narrow)).await), left);
    }
    let last = claim(1, 4);
    let granted = add_and_claim(s, &last).await;
    assert_eq!(quota(&granted), Some(Quota { limit: 2, remaining: 0, reset: HOUR }), "as configured");
    for narrow in [1, 4, 5] {
        assert_eq!(add_and_claim(s, &claim(1, narrow)).await, rate_limited(HOUR), "{narrow}");
    }
    assert_eq!(remaining(&s.claim(&claim(2, 5)).await), 1, "another wide network");
    s.take_back(&last).await.unwrap();
    assert_eq!(remaining(&s.claim(&claim(1, 5)).await), 0, "an undone claim is charged to no network");
    assert_eq!(s.claim(&claim(1, 6)).await, rate_limited(HOUR));
    s.advance(HOUR).await;
    assert_eq!(remaining(&s.claim(&claim(1, 5)).await), 1);
}

const CONCURRENT: RateLimits = RateLimits { hourly: 0, daily: 0, concurrent: 2 };

/// Returns a new claim of the same visitor, who may have two instances at a time.
fn new_bounded_claim() -> Claim {
    Claim { limits: CONCURRENT, ttl: HOUR, ..new_claim() }
}

fn too_many_at_a_time(retry_after: Duration) -> Claimed {
    Claimed::RateLimited(RateLimited { limits: CONCURRENT, reached: ReachedLimit::Concurrent, retry_after })
}

/// Claims an instance and confirms the claim.
async fn confirmed(s: &StoreFixture, claim: &Claim) -> Instance {
    s.add_ready("shop", "a").await;
    let granted = s.granted(claim).await;
    s.confirm(&[granted.id().clone()]).await;
    granted
}

pub(crate) async fn a_visitor_has_no_more_instances_at_a_time_than_allowed(s: &StoreFixture) {
    confirmed(s, &new_bounded_claim()).await;
    s.advance(MINUTE).await;
    confirmed(s, &new_bounded_claim()).await;
    let refused = new_bounded_claim();
    assert_eq!(add_and_claim(s, &refused).await, too_many_at_a_time(HOUR - MINUTE));
    let other = Claim { visitor: Visitor::new("192.0.2.2"), ..new_bounded_claim() };
    assert_eq!(quota(&s.claim(&other).await), None);
    let blog = Claim { template: template("blog"), ..new_bounded_claim() };
    assert!(add_and_claim(s, &blog).await.instance().is_some(), "of another template");
    s.add_ready("shop", "a").await;
    s.advance(HOUR - MINUTE - Duration::from_millis(1)).await;
    assert_eq!(s.claim(&refused).await, too_many_at_a_time(Duration::from_millis(1)));
    s.advance(Duration::from_millis(1)).await;
    assert!(
        s.claim(&refused).await.instance().is_some(),
        "an instance that is over does not count, swept or not"
    );
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(MINUTE));
    s.sweep().await;
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(MINUTE));
}

pub(crate) async fn an_instance_that_ends_early_frees_its_place(s: &StoreFixture) {
    s.store.heartbeat(&node_info("a")).await.unwrap();
    confirmed(s, &new_bounded_claim()).await;
    for _ in 0..2 {
        let released = confirmed(s, &new_bounded_claim()).await;
        assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR));
        s.store.release(released.id()).await.unwrap();
    }
    let failed = confirmed(s, &new_bounded_claim()).await;
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR));
    s.store.fail(failed.id()).await.unwrap();
    let undone = new_bounded_claim();
    s.add_ready("shop", "a").await;
    s.granted(&undone).await;
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR));
    s.take_back(&undone).await.unwrap();
    s.granted(&new_bounded_claim()).await;
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR));
    s.advance(CONFIRM_TIMEOUT).await;
    assert_eq!(s.sweep().await.len(), 1, "the claim was not confirmed in time");
    confirmed(s, &new_bounded_claim()).await;
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR - CONFIRM_TIMEOUT));
    assert_eq!(s.store.evict_node(&node("a"), Duration::ZERO).await.unwrap().len(), 2);
    s.add_ready("shop", "b").await;
    s.granted(&new_bounded_claim()).await;
}

pub(crate) async fn a_wide_network_bounds_the_instances_at_a_time_too(s: &StoreFixture) {
    let claim = |narrow| Claim { visitor: visitor_in(1, narrow, 2), ..new_bounded_claim() };
    let mut granted = Vec::new();
    for narrow in 1..=4 {
        granted.push(confirmed(s, &claim(narrow)).await);
        s.advance(MINUTE).await;
    }
    assert_eq!(add_and_claim(s, &claim(5)).await, too_many_at_a_time(HOUR - 4 * MINUTE));
    s.store.release(granted[2].id()).await.unwrap();
    assert!(s.claim(&claim(5)).await.instance().is_some());
    assert_eq!(add_and_claim(s, &claim(5)).await, too_many_at_a_time(HOUR - 4 * MINUTE));
    let elsewhere = Claim { visitor: visitor_in(2, 5, 2), ..new_bounded_claim() };
    assert!(s.claim(&elsewhere).await.instance().is_some());
}

pub(crate) async fn a_lower_limit_waits_for_as_many_ends_as_it_takes(s: &StoreFixture) {
    for _ in 0..3 {
        let many = RateLimits { concurrent: 9, ..NO_LIMITS };
        confirmed(s, &Claim { limits: many, ..new_bounded_claim() }).await;
        s.advance(MINUTE).await;
    }
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR - 2 * MINUTE));
}

pub(crate) async fn an_extension_delays_the_next_claim_at_a_time(s: &StoreFixture) {
    let first = confirmed(s, &new_bounded_claim()).await;
    confirmed(s, &new_bounded_claim()).await;
    s.extend(first.id(), MINUTE, 9 * HOUR).await.unwrap();
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(HOUR));
    s.advance(HOUR).await;
    confirmed(s, &new_bounded_claim()).await;
    assert_eq!(s.claim(&new_bounded_claim()).await, too_many_at_a_time(MINUTE), "the extended one counts");
}

pub(crate) async fn of_two_reached_limits_the_one_with_the_longer_wait_is_reported(s: &StoreFixture) {
    let limits = RateLimits { hourly: 1, daily: 0, concurrent: 1 };
    for (ttl, reached, retry_after) in [
        (HOUR / 2, ReachedLimit::Window, HOUR),
        (HOUR, ReachedLimit::Window, HOUR),
        (2 * HOUR, ReachedLimit::Concurrent, 2 * HOUR),
    ] {
        let claim = || Claim { limits, ttl, visitor: Visitor::new(format!("{ttl:?}")), ..new_claim() };
        confirmed(s, &claim()).await;
        let refused = Claimed::RateLimited(RateLimited { limits, reached, retry_after });
        assert_eq!(s.claim(&claim()).await, refused);
    }
}

/// The refusal of an extension under [`LIMITS`].
fn extension_limited(retry_after: Duration) -> Result<Instance, StoreError> {
    let limited = RateLimited { limits: LIMITS, reached: ReachedLimit::Window, retry_after };
    Err(StoreError::NotExtended(ExtendRefused::RateLimited(limited)))
}

pub(crate) async fn an_extension_is_charged_to_the_visitor_of_the_lease(s: &StoreFixture) {
    let claim = Claim { ttl: HOUR, visitor: visitor_in(1, 1, 2), ..new_limited_claim() };
    let it = confirmed(s, &claim).await;
    s.advance(MINUTE).await;
    let longer = s.store.extend(it.id(), MINUTE, 9 * HOUR, LIMITS).await.unwrap();
    assert_eq!(longer.lease().unwrap().deadline(), it.lease().unwrap().deadline() + MINUTE);
    assert_eq!(longer.visitor(), Some(&claim.visitor));
    let again = Claim { visitor: claim.visitor.clone(), ..new_limited_claim() };
    assert_eq!(add_and_claim(s, &again).await, rate_limited(HOUR - MINUTE), "as one more instance");
    let neighbours = [2, 3].map(|narrow| Claim { visitor: visitor_in(1, narrow, 2), ..new_limited_claim() });
    assert_eq!(remaining(&s.claim(&neighbours[0]).await), 1);
    assert_eq!(remaining(&add_and_claim(s, &neighbours[1]).await), 0, "the wide network is charged too");
    s.advance(HOUR).await;
    assert_eq!(remaining(&add_and_claim(s, &again).await), 0, "the third charge of the day");
}

pub(crate) async fn an_extension_beyond_the_limits_changes_nothing(s: &StoreFixture) {
    let it = confirmed(s, &Claim { ttl: 2 * HOUR, ..new_limited_claim() }).await;
    let extend = |by| s.store.extend(it.id(), by, 3 * HOUR, LIMITS);
    s.advance(HOUR / 4).await;
    let longer = extend(MINUTE).await.unwrap();
    let (_, cursor) = s.snapshot().await;
    for _ in 0..3 {
        assert_eq!(extend(MINUTE).await, extension_limited(HOUR * 3 / 4));
    }
    assert_eq!(s.get(it.id()).await, Some(longer));
    assert_eq!(s.events(cursor).await, []);
    let beyond = Err(StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(3 * HOUR)));
    assert_eq!(extend(2 * HOUR).await, beyond, "the longest time is checked before the limits");
    s.advance(HOUR * 3 / 4).await;
    assert!(extend(MINUTE).await.is_ok(), "refused extensions were not charged");
    assert_eq!(extend(MINUTE).await, extension_limited(DAY - HOUR), "the day has three");
    s.store.release(it.id()).await.unwrap();
    assert_eq!(extend(MINUTE).await, Err(StoreError::Unknown), "an instance that is gone comes first");
}

pub(crate) async fn a_lease_without_limits_is_extended_without_a_charge(s: &StoreFixture) {
    let free = confirmed(s, &Claim { ttl: HOUR, ..new_claim() }).await;
    assert_eq!(free.visitor(), None);
    let bounded = confirmed(s, &new_bounded_claim()).await;
    for _ in 0..5 {
        s.store.extend(free.id(), MINUTE, 9 * HOUR, LIMITS).await.unwrap();
        s.store.extend(bounded.id(), MINUTE, 9 * HOUR, CONCURRENT).await.unwrap();
    }
    assert_eq!(remaining(&add_and_claim(s, &new_limited_claim()).await), 1);
    assert!(s.store.extend(bounded.id(), TTL, 9 * HOUR, LIMITS).await.is_ok(), "a limit that was set since");
    assert_eq!(s.store.extend(bounded.id(), TTL, 9 * HOUR, LIMITS).await, extension_limited(HOUR));
}
