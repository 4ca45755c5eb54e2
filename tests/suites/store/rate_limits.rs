//! How many instances one visitor may have.

use std::time::Duration;

use try_it_now::instance::{RateLimited, RateLimits, ReachedLimit};
use try_it_now::store::{Claim, Claimed, Quota, Visitor};

use super::fixture::{HOUR, NO_LIMITS, StoreFixture, new_claim, template};

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
