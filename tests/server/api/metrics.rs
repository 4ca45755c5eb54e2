//! The HTTP contract: the metrics page after some traffic.

use crate::support::harness::{Server, eventually, get};

/// Returns the value of a series with this exact name and these labels.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

async fn traffic() -> Server {
    let server = Server::start(&[("RATE_LIMIT_HOURLY", "2"), ("POOL_MAX_SIZE", "4")]).await;
    let (kept, released) = (server.acquire().await, server.acquire().await);
    assert_eq!(server.call("POST", "/api/v1/demo/acquire", "").await.status, 429);
    assert_eq!(get(server.port, &kept.host, "/entries").await.status, 200);
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", released.id), "").await.status, 200);
    assert_eq!(server.call("GET", "/no/such/path", "").await.status, 404);
    server.full().await
}

#[tokio::test]
async fn every_metric_of_the_contract_is_there_after_some_traffic() {
    let server = traffic().await;
    let page = server.request("GET", "/metrics", &[], "").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let page = page.text();
    for (series, expected) in [
        (r#"demo_pool_ready_instances{template="default"}"#, 2.0),
        (r#"demo_pool_assigned_instances{template="default"}"#, 1.0),
        (r#"demo_pool_warming_instances{template="default"}"#, 0.0),
        (r#"demo_pool_target_size{template="default"}"#, 2.0),
        (r#"demo_pool_capacity{template="default"}"#, 4.0),
        ("demo_criu_available", 0.0),
        (r#"demo_acquisitions_total{template="default",result="success"}"#, 2.0),
        (r#"demo_acquisitions_total{template="default",result="rate_limited"}"#, 1.0),
        (r#"demo_releases_total{template="default",reason="released"}"#, 1.0),
        ("demo_rate_limit_hits_total", 1.0),
        ("demo_acquisition_duration_seconds_count", 3.0),
        (
            r#"demo_http_request_duration_seconds_count{method="POST",path="/api/v1/demo/acquire",status="200"}"#,
            2.0,
        ),
        (
            r#"demo_http_request_duration_seconds_count{method="POST",path="/api/v1/demo/acquire",status="429"}"#,
            1.0,
        ),
        (
            r#"demo_http_request_duration_seconds_count{method="DELETE",path="/api/v1/demo/{id}",status="200"}"#,
            1.0,
        ),
        (r#"demo_http_request_duration_seconds_count{method="GET",path="/*",status="200"}"#, 1.0),
        (r#"demo_http_request_duration_seconds_count{method="GET",path="none",status="404"}"#, 1.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series} in\n{page}");
    }
    for series in [
        r#"demo_provisions_total{template="default",method="cold_start",result="success"}"#,
        r#"demo_provision_duration_seconds_count{method="cold_start"}"#,
        r#"demo_health_checks_total{result="success"}"#,
        r#"demo_route_operations_total{operation="add",result="success"}"#,
        r#"demo_route_operations_total{operation="remove",result="success"}"#,
        "demo_health_check_duration_seconds_count",
        "demo_wait_for_ready_duration_seconds_count",
        "demo_route_add_duration_seconds_count",
        "demo_route_remove_duration_seconds_count",
    ] {
        assert!(value(&page, series).is_some_and(|n| n >= 1.0), "{series} in\n{page}");
    }
    let commit = option_env!("TRY_IT_NOW_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let build = format!(r#"demo_build_info{{version="{}",commit="{commit}"}} 1"#, env!("CARGO_PKG_VERSION"));
    assert!(page.contains(&build), "{page}");
    assert!(page.contains("# TYPE demo_criu_restore_duration_seconds histogram"), "{page}");
    assert!(page.contains(r#"demo_acquisition_duration_seconds_bucket{le="0.00005"}"#), "{page}");
    assert!(!page.contains("no/such/path"), "a raw path is not a label");
}

#[tokio::test]
async fn the_page_is_open_metrics_if_the_client_accepts_it() {
    let server = traffic().await;
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let page = server.request("GET", "/metrics", &[("accept", accept)], "").await;
    assert_eq!(page.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let page = page.text();
    assert!(page.ends_with("# EOF\n"));
    assert!(page.contains("# TYPE demo_acquisitions counter\n"), "{page}");
    let series = r#"demo_acquisitions_total{template="default",result="success"}"#;
    assert_eq!(value(&page, series), Some(2.0), "{page}");
}

#[tokio::test]
async fn an_expiry_and_an_exhausted_pool_are_counted() {
    let settings = [("POOL_DEFAULT_TTL", "1s"), ("POOL_TARGET_SIZE", "1"), ("POOL_MAX_SIZE", "1")];
    let server = Server::start(&settings).await;
    server.acquire().await;
    assert_eq!(server.call("POST", "/api/v1/demo/acquire", "").await.status, 503);
    let page = async || server.request("GET", "/metrics", &[], "").await.text();
    let exhausted = r#"demo_acquisitions_total{template="default",result="pool_exhausted"}"#;
    assert_eq!(value(&page().await, exhausted), Some(1.0));
    eventually("the expiry is counted", async || {
        let expired = r#"demo_releases_total{template="default",reason="expired"}"#;
        (value(&page().await, expired) == Some(1.0)).then_some(())
    })
    .await;
}
