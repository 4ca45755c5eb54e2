//! The HTTP contract: an instance expires on time, and every endpoint reports the same state.

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use try_it_now::clock::{Clock, Millis};

use crate::support::harness::{Server, eventually, get, request};

/// Returns the present time in milliseconds since 1970.
fn now() -> u64 {
    Clock::System.now().0
}

fn millis(text: &str) -> u64 {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp_nanos();
    u64::try_from(nanos / 1_000_000).unwrap()
}

#[tokio::test]
async fn an_instance_lives_until_its_deadline_and_ends_within_the_second() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "2s")]).await;
    let acquired = server.call("POST", "/api/v1/demo/acquire", "").await.json();
    let id = acquired["id"].as_str().unwrap();
    let host = format!("{id}.localhost:{}", server.port);
    let deadline = millis(acquired["expires_at"].as_str().unwrap());
    let mut last_alive = 0;
    let ended = eventually("the instance has expired", async || {
        let asked = now();
        let status = get(server.port, &host, "/health").await.status;
        if status == 200 {
            last_alive = asked;
            return None;
        }
        assert_eq!(status, 410);
        Some(now())
    })
    .await;
    assert!(ended >= deadline, "it ended {} ms too early", deadline - ended);
    assert!(ended < deadline + 1_000, "it ended {} ms too late", ended - deadline);
    assert!(last_alive < deadline, "it was alive {} ms after its deadline", last_alive - deadline);

    let path = format!("/api/v1/demo/{id}");
    let shown = server.call("GET", &path, "").await;
    assert_eq!(shown.status, 200);
    let shown = shown.json();
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("expired"), &json!("expired")));
    assert_eq!(shown["ttl_remaining_seconds"], 0);
    assert_eq!(shown["expires_at"], acquired["expires_at"]);
    for (method, path, body) in
        [("POST", format!("{path}/extend"), r#"{"minutes":1}"#), ("DELETE", path.clone(), "")]
    {
        let answer = server.call(method, &path, body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("NOT_FOUND")), "{method} {path}");
    }
    // A read of an expired instance does not remove it.
    assert_eq!(server.call("GET", &path, "").await.status, 200);
}

#[tokio::test]
async fn an_expired_host_answers_410_as_a_page_or_as_json() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "1s")]).await;
    let instance = server.acquire().await;
    eventually("the instance has expired", async || {
        (get(server.port, &instance.host, "/").await.status == 410).then_some(())
    })
    .await;
    let browser = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let page = request(server.port, "GET", &instance.host, "/deep/in?the=app", &browser, "").await;
    assert_eq!((page.status, page.header("content-type")), (410, "text/html; charset=utf-8"));
    assert!(page.text().contains(&format!("http://localhost:{}/", server.port)), "{}", page.text());
    let program = [("accept", "application/json")];
    let answer = request(server.port, "POST", &instance.host, "/", &program, "x").await;
    assert_eq!((answer.status, answer.json()["code"].clone()), (410, json!("EXPIRED")));
}

#[tokio::test]
async fn an_unknown_host_answers_404_as_a_page_or_as_json() {
    let server = Server::start(&[]).await;
    let host = "default-aaaaaaaaaaaaaaaa.localhost";
    let page = get(server.port, host, "/").await;
    assert_eq!((page.status, page.header("content-type")), (404, "text/html; charset=utf-8"));
    assert!(page.text().contains(&format!("http://localhost:{}/", server.port)), "{}", page.text());
    let answer = request(server.port, "GET", host, "/", &[("accept", "application/json")], "").await;
    assert_eq!((answer.status, answer.json()["code"].clone()), (404, json!("NOT_FOUND")));
}

#[tokio::test]
async fn an_extended_instance_outlives_its_first_deadline() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "1s")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let first = server.call("GET", &path, "").await.json();
    assert_eq!(server.call("POST", &format!("{path}/extend"), r#"{"minutes":1}"#).await.status, 200);
    let first = Millis(millis(first["expires_at"].as_str().unwrap()));
    eventually("the first deadline has passed", async || {
        (Clock::System.now() > first + Duration::from_millis(500)).then_some(())
    })
    .await;
    assert_eq!(get(server.port, &instance.host, "/health").await.status, 200);
    assert_eq!(server.call("GET", &path, "").await.json()["state"], "assigned");
}

#[tokio::test]
async fn an_expired_instance_is_removed_and_replaced() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "1s")]).await;
    let instance = server.acquire().await;
    eventually("its processes and its folder are gone", async || {
        let gone =
            crate::support::harness::processes_of(&server.folder).iter().all(|p| p.instance != instance.id)
                && !crate::support::harness::instance_folders(&server.folder).contains(&instance.id);
        gone.then_some(())
    })
    .await;
    let server = server.full().await;
    assert_eq!(server.stats().await["assigned"], 0);
}
