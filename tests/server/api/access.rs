//! The HTTP contract: access by the API key, request ids, and answers to HEAD.

use http::HeaderMap;
use serde_json::json;

use crate::support::harness::{Answer, Server, request, send_raw};

const KEY: &str = "s3cret & key/=%+";
const KEY_IN_QUERY: &str = "s3cret%20%26%20key%2F%3D%25%2B";

/// All calls that the API key protects, on known paths and one unknown path.
const PROTECTED: [(&str, &str); 12] = [
    ("POST", "/api/v1/demo/acquire"),
    ("GET", "/api/v1/demo/default-aaaaaaaaaaaaaaaa"),
    ("DELETE", "/api/v1/demo/default-aaaaaaaaaaaaaaaa"),
    ("POST", "/api/v1/demo/default-aaaaaaaaaaaaaaaa/extend"),
    ("GET", "/api/v1/demo/default-aaaaaaaaaaaaaaaa/status"),
    ("GET", "/api/v1/demo/default-aaaaaaaaaaaaaaaa/logs"),
    ("GET", "/api/v1/pool/stats"),
    ("GET", "/api/v1/nodes"),
    ("POST", "/api/v1/nodes/node-aaaaaaaaaaaa/drain"),
    ("DELETE", "/api/v1/nodes/node-aaaaaaaaaaaa/drain"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/nothing"),
];

async fn start() -> Server {
    Server::start_with(&[("API_KEY", KEY), ("LOG_LEVEL", "trace")], &[]).await
}

#[tokio::test]
async fn without_the_api_key_every_protected_call_is_refused() {
    let server = start().await;
    let wrong = ["", "s3cret", "s3cret & key/=%+ ", "S3CRET & KEY/=%+"];
    for (method, path) in PROTECTED {
        let mut answers = vec![server.request(method, path, &[], "").await];
        for key in wrong {
            answers.push(server.request(method, path, &[("x-api-key", key.trim_end())], "").await);
            if key.trim_end() == KEY {
                answers.pop();
            }
        }
        answers.push(server.request(method, &format!("{path}?api_key=nonsense"), &[], "").await);
        answers.push(server.request(method, &format!("{path}?api_key="), &[], "").await);
        for answer in answers {
            assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text());
            let body = answer.json();
            assert_eq!((&body["error"], &body["code"]), (&json!("unauthorized"), &json!("UNAUTHORIZED")));
        }
    }
}

/// Every call with an unsafe method, on known paths and one unknown path.
const UNSAFE: [(&str, &str); 8] = [
    ("POST", "/api/v1/demo/acquire"),
    ("DELETE", "/api/v1/demo/default-aaaaaaaaaaaaaaaa"),
    ("POST", "/api/v1/demo/default-aaaaaaaaaaaaaaaa/extend"),
    ("POST", "/api/v1/nodes/node-aaaaaaaaaaaa/drain"),
    ("DELETE", "/api/v1/nodes/node-aaaaaaaaaaaa/drain"),
    ("POST", "/try/default"),
    ("POST", "/end/default-aaaaaaaaaaaaaaaa"),
    ("POST", "/nothing"),
];

#[tokio::test]
async fn the_page_of_another_site_can_neither_acquire_nor_end_an_instance() {
    let server = Server::start(&[]).await;
    let before = server.stats().await;
    let instance = format!("http://default-aaaaaaaaaaaaaaaa.localhost:{}", server.port);
    let attacks: [&[(&str, &str)]; 6] = [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
        &[("sec-fetch-site", "same-site"), ("origin", &instance)],
        &[("origin", "https://evil.example")],
        // A visitor can run any script in an instance.
        &[("origin", &instance)],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site"), ("content-type", "text/plain")],
    ];
    for (method, path) in UNSAFE {
        for headers in attacks {
            let answer = server.request(method, path, headers, "").await;
            answer.assert_error(403, "CROSS_SITE");
            assert_eq!(answer.header("access-control-allow-origin"), "", "{method} {path} {headers:?}");
        }
    }
    let browser = [("sec-fetch-site", "cross-site"), ("accept", "text/html")];
    let page = server.request("POST", "/try/default", &browser, "").await;
    assert_eq!(page.status, 403);
    assert!(page.text().contains("another site"), "{}", page.text());
    assert_eq!(server.stats().await, before, "nothing was acquired");
}

#[tokio::test]
async fn a_site_with_a_button_may_acquire_and_read_the_answer() {
    let origins = "https://market.example.org, http://plugins.example:8080";
    let server = Server::start(&[("BUTTON_ORIGINS", origins)]).await;
    let own = format!("http://localhost:{}", server.port);
    for (origin, is_button) in [("https://market.example.org", true), (own.as_str(), false)] {
        let site = if is_button { "cross-site" } else { "same-origin" };
        let headers = [("origin", origin), ("sec-fetch-site", site)];
        let answer = server.request("POST", "/api/v1/demo/acquire", &headers, "").await;
        assert_eq!(answer.status, 200, "{origin}: {}", answer.text());
        let readable = if is_button { origin } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), readable);
        let headers = [("origin", origin)];
        let answer = server.request("POST", "/try/default", &headers, "").await;
        assert_eq!(answer.status, 303, "{origin}: {}", answer.text());
    }
    let headers = [("origin", "https://plugins.example:8080"), ("sec-fetch-site", "cross-site")];
    server.request("POST", "/api/v1/demo/acquire", &headers, "").await.assert_error(403, "CROSS_SITE");
}

#[tokio::test]
async fn the_api_key_is_accepted_in_the_header_and_in_the_query() {
    let server = start().await;
    for (method, path) in PROTECTED {
        let by_header = server.request(method, path, &[("x-api-key", KEY)], "").await;
        let by_query = server.request(method, &format!("{path}?api_key={KEY_IN_QUERY}"), &[], "").await;
        for answer in [by_header, by_query] {
            assert_ne!(answer.status, 401, "{method} {path}");
        }
    }
    let second = server.request("GET", &format!("/metrics?x=1&api_key={KEY_IN_QUERY}"), &[], "").await;
    assert_eq!(second.status, 200);
}

#[tokio::test]
async fn health_and_the_pages_are_public() {
    let server = start().await;
    for path in ["/health", "/"] {
        assert_eq!(server.request("GET", path, &[], "").await.status, 200, "{path}");
    }
    let acquired = crate::support::harness::eventually("a visitor takes an instance", async || {
        let answer = server.request("POST", "/try/default", &[], "").await;
        (answer.status == 303).then_some(answer)
    })
    .await;
    let url = acquired.header("location");
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    assert_eq!(crate::support::harness::get(server.port, host, "/").await.status, 200);
    let id = host.split('.').next().unwrap();
    assert_eq!(server.request("POST", &format!("/end/{id}"), &[], "").await.status, 303);
}

#[tokio::test]
async fn the_api_key_is_never_logged_and_never_reaches_an_app() {
    let server = start().await;
    let acquired = crate::support::harness::eventually("an instance is acquired", async || {
        let path = format!("/api/v1/demo/acquire?api_key={KEY_IN_QUERY}");
        let answer = server.request("POST", &path, &[], "").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let host = format!("{}.localhost", acquired["id"].as_str().unwrap());
    let headers = [("x-api-key", KEY), ("x-other", "stays")];
    let seen = request(server.port, "GET", &host, "/whoami", &headers, "").await.json();
    assert_eq!(seen["headers"]["x-api-key"], json!(null));
    assert_eq!(seen["headers"]["x-other"], json!(["stays"]));
    for key in [KEY, "wrong s3cret"] {
        server.request("GET", "/api/v1/pool/stats", &[("x-api-key", key)], "").await;
    }
    server.request("GET", &format!("/nothing?api_key={KEY_IN_QUERY}"), &[], "").await;
    server.request("GET", &format!("/metrics?api_key=wrong{KEY_IN_QUERY}"), &[], "").await;
    send_raw(
        server.port,
        format!("GET /x?api_key={KEY_IN_QUERY} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").as_bytes(),
    )
    .await;
    let log = server.log_until(|line| line.contains(r#""status":400"#)).await;
    for line in log {
        assert!(!line.contains("s3cret"), "{line}");
    }
}

/// Returns the request id in the header of an answer. Asserts that an error has the same id in its body.
fn id_of(answer: &Answer) -> String {
    let id = answer.header("x-request-id").to_owned();
    if answer.status >= 400 && answer.header("content-type") == "application/json" {
        assert_eq!(answer.json()["request_id"], id);
    }
    id
}

fn is_uuid_v7(id: &str) -> bool {
    uuid::Uuid::parse_str(id).is_ok_and(|uuid| uuid.get_version_num() == 7)
}

#[tokio::test]
async fn every_answer_and_its_log_line_carry_the_request_id() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let longest = "x".repeat(128);
    let too_long = "x".repeat(129);
    let cases = [
        ("localhost", "GET", "/health"),
        ("localhost", "GET", "/"),
        ("localhost", "GET", "/nothing"),
        ("localhost", "PUT", "/health"),
        ("localhost", "GET", "/api/v1/demo/nobody"),
        ("localhost", "POST", "/try/nothing"),
        (instance.host.as_str(), "GET", "/health"),
        (instance.host.as_str(), "GET", "/download"),
        ("default-aaaaaaaaaaaaaaaa.localhost", "GET", "/"),
        ("elsewhere.example", "GET", "/"),
    ];
    for (n, (host, method, path)) in cases.into_iter().enumerate() {
        let given = format!("id-{n}!~");
        for given in [given.as_str(), longest.as_str()] {
            let answer = request(server.port, method, host, path, &[("x-request-id", given)], "").await;
            assert_eq!(id_of(&answer), given, "{method} {host}{path}");
        }
        let logged = format!(r#""request_id":"{given}""#);
        server.log_until(|line| line.contains(&logged)).await;
        for refused in ["", "two words", too_long.as_str()] {
            let answer = request(server.port, method, host, path, &[("x-request-id", refused)], "").await;
            assert!(is_uuid_v7(&id_of(&answer)), "{method} {host}{path} with {refused:?}");
        }
        let fresh = id_of(&request(server.port, method, host, path, &[], "").await);
        assert!(is_uuid_v7(&fresh), "{fresh}");
        let logged = format!(r#""request_id":"{fresh}""#);
        server.log_until(|line| line.contains(&logged)).await;
    }
}

#[tokio::test]
async fn the_request_id_reaches_the_app() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let ask = async |headers: &[(&str, &str)]| {
        let answer = request(server.port, "GET", &instance.host, "/whoami", headers, "").await;
        let seen = answer.json()["headers"]["x-request-id"].clone();
        (seen, id_of(&answer))
    };
    let (seen, id) = ask(&[("x-request-id", "mine")]).await;
    assert_eq!((seen, id.as_str()), (json!(["mine"]), "mine"));
    let (seen, id) = ask(&[("x-request-id", "not mine")]).await;
    assert_eq!(seen, json!([id]));
}

#[tokio::test]
async fn a_request_log_line_has_the_outcome_and_nothing_private() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let headers = [("x-request-id", "the-one"), ("cookie", "private=1"), ("authorization", "Basic private")];
    request(server.port, "GET", &instance.host, "/entries/private?private=2", &headers, "").await;
    let log = server.log_until(|line| line.contains("the-one")).await;
    let line: serde_json::Value =
        serde_json::from_str(log.iter().find(|line| line.contains("the-one")).unwrap()).unwrap();
    assert_eq!(line["host"], "instance");
    assert_eq!((&line["method"], &line["path"], &line["status"]), (&json!("GET"), &json!("/*"), &json!(404)));
    assert!(line["micros"].is_u64());
    assert!(!server.log().iter().any(|line| line.contains("private")));
}

#[tokio::test]
async fn an_answer_to_head_is_that_to_get_without_its_body() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let paths = [
        "/health".to_owned(),
        "/".to_owned(),
        format!("/api/v1/demo/{}/logs", instance.id),
        "/nothing".to_owned(),
        "/api/v1/demo/acquire".to_owned(),
    ];
    let relevant = |headers: &HeaderMap| {
        let mut headers = headers.clone();
        headers.remove("date");
        // The nonce of the page's script differs each time.
        headers.remove("content-security-policy");
        headers
    };
    for path in paths {
        let headers = [("x-request-id", "same"), ("connection", "close")];
        let get = server.request("GET", &path, &headers, "").await;
        let head = server.request("HEAD", &path, &headers, "").await;
        assert_eq!(get.status, head.status, "{path}");
        assert_eq!(relevant(&get.headers), relevant(&head.headers), "{path}");
        let bytes = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = send_raw(server.port, bytes.as_bytes()).await;
        assert!(answer.ends_with("\r\n\r\n") && answer.matches("\r\n\r\n").count() == 1, "{answer}");
    }
    let bytes = format!(
        "HEAD /api/v1/demo/{}/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        instance.id
    );
    assert!(send_raw(server.port, bytes.as_bytes()).await.starts_with("HTTP/1.1 200 "));
}
