//! The HTTP contract: the answer of each endpoint to a valid request.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::harness::{Server, get};

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Parses a time of the contract into milliseconds since 1970.
fn millis(value: &Value) -> i128 {
    let text = value.as_str().unwrap();
    assert!(text.ends_with('Z'), "{text} is not in UTC");
    OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp_nanos() / 1_000_000
}

#[tokio::test]
async fn a_visitor_gets_an_instance_on_its_own_host() {
    let server = Server::start(&[]).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    assert_ne!(a.id, b.id);
    for instance in [&a, &b] {
        let page = get(server.port, &instance.host, "/").await;
        assert_eq!(page.status, 200, "{}", page.text());
        assert!(page.text().contains(&instance.id));
    }
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", a.id), "").await.status, 200);
    assert_eq!(get(server.port, &a.host, "/").await.status, 404);
    assert_eq!(get(server.port, &b.host, "/").await.status, 200);
}

#[tokio::test]
async fn health_names_the_runtime() {
    let server = Server::start_with(&[("POOL_TARGET_SIZE", "0"), ("POOL_MIN_SIZE", "0")], &[]).await;
    let health = server.call("GET", "/health", "").await;
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok", "mode": "process"})));
    assert_eq!(health.header("content-type"), "application/json");
}

#[tokio::test]
async fn an_acquire_returns_a_url_that_works_as_printed() {
    let server = Server::start(&[("PS_ADMIN_PATH", "admin/area"), ("POOL_DEFAULT_TTL", "90s")]).await;
    // Existing clients send no body and no media type. The other bodies name no template in other ways, or the default
    // one.
    for body in ["", "{}", r#"{"template": null}"#, r#"{"template": "default", "later": 1}"#] {
        let answer = server.request("POST", "/api/v1/demo/acquire", &[], body).await;
        assert_eq!(answer.status, 200, "{body:?}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        let acquired = answer.json();
        assert_eq!(keys(&acquired), ["admin_url", "expires_at", "id", "token", "ttl_seconds", "url"]);
        let id = acquired["id"].as_str().unwrap();
        assert!(id.starts_with("default-") && id.len() == "default-".len() + 16, "{id}");
        assert_eq!(acquired["url"], format!("http://{id}.localhost:{}/", server.port));
        assert_eq!(acquired["admin_url"], format!("http://{id}.localhost:{}/admin/area", server.port));
        assert_eq!(acquired["ttl_seconds"], 90);
        let shown = server.call("GET", &format!("/api/v1/demo/{id}"), "").await.json();
        assert_eq!(millis(&acquired["expires_at"]), millis(&shown["assigned_at"]) + 90_000);
        let page = get(server.port, &format!("{id}.localhost:{}", server.port), "/").await;
        assert_eq!(page.status, 200);
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await.status, 200);
    }
}

#[tokio::test]
async fn the_public_url_is_used_in_the_urls_of_instances() {
    let server = Server::start(&[("PUBLIC_URL", "https://demo.example.com"), ("BASE_DOMAIN", "example.com")]);
    let server = server.await;
    let answer = server.call("POST", "/api/v1/demo/acquire", "").await.json();
    let id = answer["id"].as_str().unwrap();
    assert_eq!(answer["url"], format!("https://{id}.example.com/"));
    assert_eq!(get(server.port, &format!("{id}.example.com"), "/").await.status, 200);
    assert_eq!(get(server.port, &format!("{id}.localhost"), "/").await.status, 421);
}

#[tokio::test]
async fn an_instance_shows_its_state_and_its_times() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "10m")]).await;
    let instance = server.acquire().await;
    let answer = server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await;
    assert_eq!(answer.status, 200);
    let shown = answer.json();
    let expected = [
        "admin_url",
        "assigned_at",
        "created_at",
        "expires_at",
        "id",
        "state",
        "ttl_remaining_seconds",
        "url",
    ];
    assert_eq!(keys(&shown), expected);
    assert_eq!((&shown["id"], &shown["url"]), (&json!(instance.id), &json!(instance.url)));
    assert_eq!(shown["state"], "assigned");
    let [created, assigned, expires] =
        ["created_at", "assigned_at", "expires_at"].map(|key| millis(&shown[key]));
    assert!(created <= assigned && assigned + 600_000 == expires);
    let left = shown["ttl_remaining_seconds"].as_u64().unwrap();
    assert!((590..=600).contains(&left), "{left}");
}

#[tokio::test]
async fn an_extension_moves_the_deadline_by_whole_minutes() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "10m")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let before = server.call("GET", &path, "").await.json();
    for (minutes, sum) in [(1, 1), (60, 61)] {
        let body = format!(r#"{{"minutes":{minutes}}}"#);
        let answer = server.request("POST", &format!("{path}/extend"), &[], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let extended = answer.json();
        assert_eq!(keys(&extended), ["expires_at", "id", "ttl_remaining"]);
        assert_eq!(extended["id"], instance.id);
        assert_eq!(millis(&extended["expires_at"]), millis(&before["expires_at"]) + sum * 60_000);
        let left = i128::from(extended["ttl_remaining"].as_u64().unwrap());
        assert!((580 + sum * 60..=600 + sum * 60).contains(&left), "{left}");
    }
    let after = server.call("GET", &path, "").await.json();
    assert_eq!(millis(&after["expires_at"]), millis(&before["expires_at"]) + 61 * 60_000);
}

#[tokio::test]
async fn a_released_instance_is_gone_everywhere_at_once() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    let released = server.call("DELETE", &path, "").await;
    assert_eq!(released.status, 200);
    let expected =
        json!({"id": instance.id, "status": "released", "message": "Demo instance has been released"});
    assert_eq!(released.json(), expected);
    for (method, path, body) in [
        ("GET", path.clone(), ""),
        ("DELETE", path.clone(), ""),
        ("POST", format!("{path}/extend"), r#"{"minutes":1}"#),
        ("GET", format!("{path}/status"), ""),
    ] {
        let answer = server.call(method, &path, body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("NOT_FOUND")), "{method} {path}");
    }
    assert_eq!(get(server.port, &instance.host, "/").await.status, 404);
}

#[tokio::test]
async fn the_log_of_an_instance_is_what_its_app_wrote() {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let command = format!("echo to stdout; echo to stderr >&2; exec {program} sample-app");
    let file = format!("[templates.talker]\ncommand = [\"sh\", \"-c\", \"{command}\"]\n");
    let server = Server::with_file(&[], &file).await.full().await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}/logs", instance.id);
    let log = server.call("GET", &path, "").await;
    assert_eq!(log.status, 200);
    assert_eq!(log.header("content-type"), "text/plain; charset=utf-8");
    assert!(log.text().starts_with("to stdout\nto stderr\n"), "{}", log.text());
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    crate::support::harness::eventually("its log is removed", async || {
        (server.call("GET", &path, "").await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pool_stats_are_summed_over_all_templates_or_limited_to_one() {
    let server = Server::with_file(
        &[],
        r#"
        [templates.small]
        command = ["try-it-now", "sample-app"]
        pool = { target = 1, min = 0, max = 2 }
        [templates.large]
        command = ["try-it-now", "sample-app"]
        pool = { target = 2, min = 1, max = 5 }
        "#,
    )
    .await
    .full()
    .await;
    let numbers = |stats: &Value| {
        ["ready", "assigned", "warming", "target", "capacity"].map(|key| stats[key].as_u64().unwrap())
    };
    assert_eq!(numbers(&server.stats().await), [3, 0, 0, 3, 7]);
    // The first template in the file is the default if none has that name.
    assert!(server.acquire().await.id.starts_with("small-"));
    let of = async |name: &str| {
        let answer = server.call("GET", &format!("/api/v1/pool/stats?template={name}"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        numbers(&answer.json())
    };
    let [_, assigned, _, target, capacity] = of("small").await;
    assert_eq!([assigned, target, capacity], [1, 1, 2]);
    assert_eq!(of("large").await, [2, 0, 0, 2, 5]);
    assert_eq!(server.call("GET", "/api/v1/pool/stats?template=none", "").await.status, 404);
    assert_eq!(server.call("GET", "/api/v1/pool/stats?template=No%20Name", "").await.status, 400);
}
