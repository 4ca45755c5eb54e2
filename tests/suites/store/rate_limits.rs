//! What one visitor may have.

use std::time::Duration;

use try_it_now::instance::{Limits, RateLimited};
use try_it_now::store::{Claim, Claimed, Quota, Visitor};

use super::fixture::{HOUR, NO_LIMITS, Stage, template, wish};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIMITS: Limits = Limits { hourly: 2, daily: 3 };

/// A new claim of the one visitor, under [`LIMITS`].
fn limited() -> Claim {
    Claim { limits: LIMITS, ..wish() }
}

/// Makes one ready and claims it.
async fn take(s: &Stage, claim: &Claim) -> Claimed {
    s.ready(claim.template.as_str(), "a").await;
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

fn wait(retry_after: Duration) -> Claimed {
    Claimed::RateLimited(RateLimited { limits: LIMITS, retry_after })
}

pub(crate) async fn a_visitor_gets_what_the_limit_allows_and_then_a_wait(s: &Stage) {
    assert_eq!(remaining(&take(s, &limited()).await), 1);
    s.advance(HOUR / 4).await;
    assert_eq!(remaining(&take(s, &limited()).await), 0);
    assert_eq!(take(s, &limited()).await, wait(HOUR * 3 / 4));
    s.advance(HOUR * 3 / 4 - Duration::from_millis(1)).await;
    assert_eq!(s.claim(&limited()).await, wait(Duration::from_millis(1)));
    s.advance(Duration::from_millis(1)).await;
    assert!(s.claim(&limited()).await.instance().is_some());
}

pub(crate) async fn the_quota_is_of_the_tighter_window(s: &Stage) {
    let first = take(s, &limited()).await;
    assert_eq!(quota(&first), Some(Quota { limit: 2, remaining: 1, reset: HOUR }));
    take(s, &limited()).await;
    s.advance(HOUR).await;
    let third = take(s, &limited()).await;
    assert_eq!(quota(&third), Some(Quota { limit: 3, remaining: 0, reset: DAY - HOUR }));
}

pub(crate) async fn a_day_holds_no_more_than_its_limit(s: &Stage) {
    for _ in 0..3 {
        assert!(take(s, &limited()).await.instance().is_some());
        s.advance(HOUR).await;
    }
    assert_eq!(take(s, &limited()).await, wait(DAY - 3 * HOUR));
    s.advance(DAY - 3 * HOUR).await;
    assert!(s.claim(&limited()).await.instance().is_some());
}

pub(crate) async fn without_limits_nothing_is_counted(s: &Stage) {
    for _ in 0..10 {
        assert_eq!(quota(&take(s, &Claim { limits: NO_LIMITS, ..wish() }).await), None);
    }
    assert_eq!(remaining(&take(s, &limited()).await), 1);
}

pub(crate) async fn a_claim_that_found_nothing_is_not_charged(s: &Stage) {
    for _ in 0..10 {
        assert_eq!(s.claim(&limited()).await, Claimed::Empty);
    }
    assert_eq!(remaining(&take(s, &limited()).await), 1);
}

pub(crate) async fn a_refused_claim_is_not_charged_and_may_be_repeated(s: &Stage) {
    take(s, &limited()).await;
    take(s, &limited()).await;
    let refused = limited();
    for _ in 0..10 {
        assert_eq!(take(s, &refused).await, wait(HOUR));
    }
    s.advance(HOUR).await;
    assert_eq!(remaining(&s.claim(&refused).await), 0, "the third of the day");
}

pub(crate) async fn a_repeated_claim_is_charged_once(s: &Stage) {
    let claim = limited();
    let first = take(s, &claim).await;
    for _ in 0..5 {
        assert_eq!(s.claim(&claim).await, first);
    }
    let second = limited();
    assert_eq!(remaining(&take(s, &second).await), 0);
    assert_eq!(remaining(&s.claim(&second).await), 0, "even with nothing left, a repetition is answered");
}

pub(crate) async fn a_release_gives_no_charge_back(s: &Stage) {
    for _ in 0..2 {
        let claimed = take(s, &limited()).await;
        s.store.release(claimed.instance().unwrap().id()).await.unwrap();
    }
    assert_eq!(take(s, &limited()).await, wait(HOUR));
}

pub(crate) async fn each_visitor_is_counted_alone(s: &Stage) {
    take(s, &limited()).await;
    take(s, &limited()).await;
    let other = Claim { visitor: Visitor("2001:db8::/64".to_owned()), ..limited() };
    assert_eq!(remaining(&take(s, &other).await), 1);
    assert_eq!(s.claim(&limited()).await, wait(HOUR));
}

pub(crate) async fn each_template_is_counted_alone(s: &Stage) {
    take(s, &limited()).await;
    take(s, &limited()).await;
    let other = Claim { template: template("blog"), ..limited() };
    assert_eq!(remaining(&take(s, &other).await), 1);
    assert_eq!(take(s, &limited()).await, wait(HOUR));
}

pub(crate) async fn a_limit_is_told_even_when_nothing_is_ready(s: &Stage) {
    take(s, &limited()).await;
    take(s, &limited()).await;
    assert_eq!(s.counts("shop").await.1, 0);
    assert_eq!(s.claim(&limited()).await, wait(HOUR));
}
