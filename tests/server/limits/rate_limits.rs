//! The HTTP contract: how many instances one visitor may have, and the ways around it that are closed.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::harness::{Answer, Server, eventually};

async fn acquire_as(server: &Server, forwarded_for: &str) -> Answer {
    server.request("POST", "/api/v1/demo/acquire", &[("x-forwarded-for", forwarded_for)], "").await
}

/// Returns the limit, the remaining quota, and the seconds until the window ends.
fn quota(answer: &Answer) -> [u64; 3] {
    ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"].map(|name| {
        let value = answer.header(name);
        value.parse().unwrap_or_else(|_| panic!("{name}: {value:?}"))
    })
}

#[tokio::test]
async fn a_visitor_over_the_limit_gets_the_time_to_retry() {
    let limits = [("RATE_LIMIT_HOURLY", "2"), ("RATE_LIMIT_DAILY", "5"), ("POOL_TARGET_SIZE", "4")];
    let server = Server::start(&limits).await;
    for left in [1, 0] {
        let answer = acquire_as(&server, "203.0.113.1").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let [limit, remaining, reset] = quota(&answer);
        assert_eq!([limit, remaining], [2, left]);
        assert!((3590..=3600).contains(&reset), "{reset}");
    }
    let refused = acquire_as(&server, "203.0.113.1").await;
    assert_eq!(refused.status, 429);
    let body = refused.json();
    assert_eq!(body["code"], "RATE_LIMITED");
    assert_eq!(body["details"], "Limit: 2 per hour, 5 per day");
    assert_eq!(body["request_id"], refused.header("x-request-id"));
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&retry_after), "{retry_after}");
    assert_eq!(quota(&refused), [2, 0, retry_after]);
    // Other visitors are not affected.
    assert_eq!(acquire_as(&server, "203.0.113.2").await.status, 200);
}

#[tokio::test]
async fn the_headers_describe_the_tighter_window() {
    let limits = [("RATE_LIMIT_HOURLY", "5"), ("RATE_LIMIT_DAILY", "1"), ("POOL_TARGET_SIZE", "2")];
    let server = Server::start(&limits).await;
    let [limit, remaining, reset] = quota(&acquire_as(&server, "203.0.113.1").await);
    assert_eq!([limit, remaining], [1, 0]);
    assert!(reset > 86_000);
    let refused = acquire_as(&server, "203.0.113.1").await;
    assert_eq!(
        (refused.status, refused.json()["details"].clone()),
        (429, json!("Limit: 5 per hour, 1 per day"))
    );
    let [limit, remaining, reset] = quota(&refused);
    assert_eq!([limit, remaining], [1, 0]);
    assert!(reset > 86_000);
}

#[tokio::test]
async fn without_limits_there_are_no_quota_headers() {
    let server = Server::start(&[]).await;
    let answer = acquire_as(&server, "203.0.113.1").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("ratelimit-limit"));
}

#[tokio::test]
async fn a_visitor_is_the_nearest_address_that_is_no_trusted_proxy() {
    let limits =
        [("RATE_LIMIT_HOURLY", "1"), ("POOL_TARGET_SIZE", "8"), ("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")];
    let server = Server::start(&limits).await;
    assert_eq!(acquire_as(&server, "203.0.113.1").await.status, 200);
    for same in ["203.0.113.1", "6.6.6.6, 203.0.113.1", "6.6.6.6,203.0.113.1 , 10.1.2.3", "203.0.113.1:4711"]
    {
        assert_eq!(acquire_as(&server, same).await.status, 429, "{same}");
    }
    assert_eq!(acquire_as(&server, "203.0.113.1, 6.6.6.6").await.status, 200);
    // All addresses of an IPv6 /64 are one visitor.
    assert_eq!(acquire_as(&server, "2001:db8:0:1::1").await.status, 200);
    assert_eq!(acquire_as(&server, "2001:db8:0:1:ffff:ffff:ffff:ffff").await.status, 429);
    assert_eq!(acquire_as(&server, "[2001:db8:0:1::2]:80").await.status, 429);
    assert_eq!(acquire_as(&server, "2001:db8:0:2::1").await.status, 200);
}

#[tokio::test]
async fn a_forwarded_address_of_an_untrusted_client_is_ignored() {
    let limits = [("RATE_LIMIT_HOURLY", "1"), ("TRUSTED_PROXIES", "192.0.2.1")];
    let server = Server::start(&limits).await;
    assert_eq!(acquire_as(&server, "203.0.113.1").await.status, 200);
    assert_eq!(acquire_as(&server, "203.0.113.2").await.status, 429);
}

#[tokio::test]
async fn only_an_assigned_instance_is_charged() {
    let limits = [("RATE_LIMIT_HOURLY", "1"), ("POOL_TARGET_SIZE", "1"), ("POOL_MAX_SIZE", "1")];
    let server = Server::start(&limits).await;
    let first = acquire_as(&server, "203.0.113.1").await.json();
    for _ in 0..3 {
        assert_eq!(acquire_as(&server, "203.0.113.2").await.status, 503);
    }
    for body in ["{", r#"{"template":"none"}"#] {
        let headers = [("x-forwarded-for", "203.0.113.2")];
        assert!(server.request("POST", "/api/v1/demo/acquire", &headers, body).await.status < 429);
    }
    let path = format!("/api/v1/demo/{}", first["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, "").await.status, 200);
    let answer = eventually("the pool has an instance again", async || {
        let answer = acquire_as(&server, "203.0.113.2").await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // A release does not refund the charge.
    assert_eq!(acquire_as(&server, "203.0.113.1").await.status, 429);
}

#[tokio::test]
async fn each_template_has_limits_of_its_own() {
    let server = Server::with_file(
        &[("RATE_LIMIT_HOURLY", "1")],
        r#"
        [templates.default]
        command = ["try-it-now", "sample-app"]
        [templates.free]
        command = ["try-it-now", "sample-app"]
        rate_limit = { hourly = 0, daily = 0 }
        "#,
    )
    .await
    .full()
    .await;
    let acquire = async |name: &str| {
        server.call("POST", "/api/v1/demo/acquire", &json!({ "template": name }).to_string()).await.status
    };
    assert_eq!([acquire("default").await, acquire("default").await], [200, 429]);
    assert_eq!([acquire("free").await, acquire("free").await], [200, 200]);
}

/// Asserts that a request was refused by a limit with these details. Returns the seconds until a retry makes sense.
fn assert_limited(refused: &Answer, details: &str) -> u64 {
    let body = refused.assert_error(429, "RATE_LIMITED");
    assert_eq!(body["details"], details);
    refused.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn a_client_that_changes_its_ipv6_64_within_a_56_gets_four_times_the_limit_and_no_more() {
    let server = Server::start(&[("RATE_LIMIT_HOURLY", "1"), ("POOL_TARGET_SIZE", "8")]).await.full().await;
    for subnet in 0..4 {
        let answer = acquire_as(&server, &format!("2001:db8:0:{subnet:x}::1")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for address in ["2001:db8:0:4::1", "2001:db8:0:ff:1:2:3:4"] {
        let wait = assert_limited(&acquire_as(&server, address).await, "Limit: 1 per hour, 0 per day");
        assert!((3500..=3600).contains(&wait), "{wait}");
    }
    for other in ["2001:db8:0:100::1", "203.0.113.1"] {
        assert_eq!(acquire_as(&server, other).await.status, 200, "{other} is another visitor");
    }
}

#[tokio::test]
async fn a_client_that_changes_its_ipv6_56_within_a_48_gets_sixteen_times_the_limit_and_no_more() {
    let sizes = [("POOL_TARGET_SIZE", "18"), ("POOL_MAX_SIZE", "30")];
    let server = Server::start(&[&[("RATE_LIMIT_HOURLY", "1")], &sizes[..]].concat()).await.full().await;
    for subnet in 0..16 {
        let answer = acquire_as(&server, &format!("2001:db8:0:{subnet:x}00::1")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for address in ["2001:db8:0:1000::1", "2001:db8:0:ffff::1"] {
        assert_limited(&acquire_as(&server, address).await, "Limit: 1 per hour, 0 per day");
    }
    assert_eq!(acquire_as(&server, "2001:db8:1::1").await.status, 200, "a client of another site");
}

#[tokio::test]
async fn a_visitor_has_no_more_instances_at_a_time_than_allowed_until_one_is_released_or_expires() {
    let limits = [("RATE_LIMIT_CONCURRENT", "1"), ("POOL_DEFAULT_TTL", "5s"), ("POOL_TARGET_SIZE", "3")];
    let server = Server::start(&limits).await.full().await;
    let first = acquire_as(&server, "203.0.113.1").await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert!(!first.headers.contains_key("ratelimit-limit"), "no window has a limit");
    let refused = acquire_as(&server, "203.0.113.1").await;
    let wait = assert_limited(&refused, "Limit: 1 at a time");
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(quota(&refused), [1, 0, wait]);
    assert_eq!(acquire_as(&server, "203.0.113.2").await.status, 200, "another visitor");
    let path = format!("/api/v1/demo/{}", first.json()["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, "").await.status, 200);
    assert_eq!(acquire_as(&server, "203.0.113.1").await.status, 200, "the release freed the place");
    assert_limited(&acquire_as(&server, "203.0.113.1").await, "Limit: 1 at a time");
    let again = eventually("the instance expires", async || {
        let answer = acquire_as(&server, "203.0.113.1").await;
        (answer.status != 429).then_some(answer)
    })
    .await;
    assert_eq!(again.status, 200, "{}", again.text());
}

#[tokio::test]
async fn of_claims_that_race_for_the_last_place_of_a_visitor_one_wins() {
    let limits = [("RATE_LIMIT_CONCURRENT", "1"), ("POOL_TARGET_SIZE", "6"), ("POOL_MAX_SIZE", "6")];
    let server = Server::start(&limits).await.full().await;
    for visitor in ["203.0.113.1", "2001:db8::1"] {
        let answers = join_all((0..12).map(|_| acquire_as(&server, visitor))).await;
        let granted = answers.iter().filter(|answer| answer.status == 200).count();
        let refused = answers.iter().filter(|answer| answer.status == 429).count();
        assert_eq!((granted, refused), (1, 11));
    }
}

#[tokio::test]
async fn an_extension_counts_for_the_visitor_who_acquired_whatever_address_asks_for_it() {
    let limits = [("RATE_LIMIT_HOURLY", "2"), ("RATE_LIMIT_CONCURRENT", "0"), ("POOL_TARGET_SIZE", "4")];
    let server = Server::start(&limits).await.full().await;
    let acquired = acquire_as(&server, "203.0.113.1").await.json();
    let path = format!("/api/v1/demo/{}", acquired["id"].as_str().unwrap());
    let token = acquired["token"].as_str().unwrap_or_default();
    let extend_as = async |address: &str, minutes: u32| {
        let headers = [("x-forwarded-for", address), ("x-instance-token", token)];
        server
            .request("POST", &format!("{path}/extend"), &headers, &json!({ "minutes": minutes }).to_string())
            .await
    };
    let extended = extend_as("203.0.113.2", 10).await;
    assert_eq!(extended.status, 200, "{}", extended.text());
    let expires_at = extended.json()["expires_at"].clone();
    for address in ["203.0.113.1", "203.0.113.3", "2001:db8::1"] {
        let wait = assert_limited(&extend_as(address, 10).await, "Limit: 2 per hour, 0 per day");
        assert!((3500..=3600).contains(&wait), "{wait}");
    }
    assert_eq!(server.call("GET", &path, "").await.json()["expires_at"], expires_at, "nothing changed");
    assert_limited(&acquire_as(&server, "203.0.113.1").await, "Limit: 2 per hour, 0 per day");
    for left in [1, 0] {
        assert_eq!(quota(&acquire_as(&server, "203.0.113.2").await)[1], left, "who asked was not charged");
    }
}
