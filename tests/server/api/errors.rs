//! The HTTP contract: each refusal has its status, its code and its shape.

use serde_json::json;

use crate::support::harness::{Server, send_raw};

async fn start() -> Server {
    Server::start(&[("POOL_TARGET_SIZE", "1")]).await
}

#[tokio::test]
async fn an_unsupported_method_is_refused_with_the_allowed_ones() {
    let server = start().await;
    let id = server.acquire().await.id;
    let paths = [
        ("/".to_owned(), "GET, HEAD, OPTIONS"),
        ("/health".to_owned(), "GET, HEAD, OPTIONS"),
        ("/ready".to_owned(), "GET, HEAD"),
        ("/metrics".to_owned(), "GET, HEAD"),
        ("/api/v1/pool/stats".to_owned(), "GET, HEAD"),
        ("/api/v1/nodes".to_owned(), "GET, HEAD"),
        (format!("/api/v1/nodes/{}/drain", server.node()), "POST, DELETE"),
        ("/api/v1/demo/acquire".to_owned(), "POST"),
        (format!("/api/v1/demo/{id}"), "GET, HEAD, DELETE"),
        (format!("/api/v1/demo/{id}/extend"), "POST"),
        (format!("/api/v1/demo/{id}/status"), "GET, HEAD"),
        (format!("/api/v1/demo/{id}/logs"), "GET, HEAD"),
        ("/try/default".to_owned(), "POST"),
        (format!("/end/{id}"), "POST"),
    ];
    for (path, allow) in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let answer = server.request(method, &path, &[], "").await;
            assert_eq!((answer.status, answer.header("allow")), (405, allow), "{method} {path}");
            if method != "HEAD" {
                answer.assert_error(405, "METHOD_NOT_ALLOWED");
            }
        }
    }
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{id}"), "").await.json()["state"], "assigned");
}

#[tokio::test]
async fn an_unknown_path_is_not_found_whatever_the_method() {
    let server = start().await;
    let paths = [
        "/nothing",
        "//",
        "/health/",
        "/Health",
        "/try",
        "/try/default/more",
        "/api",
        "/api/v1",
        "/api/v1/demo",
        "/api/v1/demo/acquire/",
        "/api/v1/demo/default-aaaaaaaaaaaaaaaa/nothing",
        "/api/v1/demo/default-aaaaaaaaaaaaaaaa/status/more",
        "/api/v2/pool/stats",
        "/api/v1/demo/..%2Fpool%2Fstats",
        "/%68ealth",
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            if path.starts_with("/api/v1/demo/..") && method != "GET" {
                continue;
            }
            server.request(method, path, &[], "").await.assert_error(404, "NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn an_unknown_instance_is_not_found() {
    let server = start().await;
    for id in
        ["default-aaaaaaaaaaaaaaaa", "none-aaaaaaaaaaaaaaaa", "x", "..", "default-AAAAAAAAAAAAAAAA", "%00"]
    {
        let path = format!("/api/v1/demo/{id}");
        server.call("GET", &path, "").await.assert_error(404, "NOT_FOUND");
        server.call("DELETE", &path, "").await.assert_error(404, "NOT_FOUND");
        server.call("GET", &format!("{path}/status"), "").await.assert_error(404, "NOT_FOUND");
        server.call("GET", &format!("{path}/logs"), "").await.assert_error(404, "NOT_FOUND");
        server
            .call("POST", &format!("{path}/extend"), r#"{"minutes":5}"#)
            .await
            .assert_error(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn an_invalid_body_is_refused_and_assigns_nothing() {
    let server = start().await;
    let bodies = [
        "{",
        "nonsense",
        "null",
        "[]",
        "5",
        r#""default""#,
        r#"{"template": 5}"#,
        r#"{"template": "default"} x"#,
    ];
    for body in bodies {
        server.call("POST", "/api/v1/demo/acquire", body).await.assert_error(400, "INVALID_REQUEST");
    }
    let too_long = "a".repeat(64);
    for name in ["", "No Name", "-x", "x-", "a.b", "a/b", too_long.as_str()] {
        let body = json!({ "template": name }).to_string();
        server.call("POST", "/api/v1/demo/acquire", &body).await.assert_error(400, "INVALID_REQUEST");
    }
    let unknown = server.call("POST", "/api/v1/demo/acquire", r#"{"template": "none"}"#).await;
    unknown.assert_error(404, "NOT_FOUND");
    assert_eq!(server.stats().await["ready"], 1);
}

#[tokio::test]
async fn a_json_body_is_accepted_whatever_its_media_type_says_and_another_body_is_not() {
    let server = start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "x"] {
        let headers = [("content-type", kind)];
        let answer = server.request("POST", "/api/v1/demo/acquire", &headers, "template=default").await;
        answer.assert_error(415, "UNSUPPORTED_MEDIA_TYPE");
        let answer = server.request("POST", "/api/v1/demo/acquire", &headers, r#"{"template": 1}"#).await;
        answer.assert_error(400, "INVALID_REQUEST");
        let unknown = r#"{"template": "none"}"#;
        let answer = server.request("POST", "/api/v1/demo/acquire", &headers, unknown).await;
        answer.assert_error(404, "NOT_FOUND");
    }
    // `curl -d` declares a form.
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let answer = server.request("POST", "/api/v1/demo/acquire", &headers, "{}").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_malformed_head_is_refused_in_the_shape_of_the_contract() {
    let server = start().await;
    for head in ["GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET /health HTTP/1.1\r\n\r\n"] {
        let answer = send_raw(server.port, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains(r#""code":"INVALID_REQUEST""#) && answer.contains("request_id"), "{answer}");
    }
}

#[tokio::test]
async fn minutes_are_a_whole_number_from_1_to_60() {
    let server = start().await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let before = server.call("GET", &path, "").await.json()["expires_at"].clone();
    let bodies = [
        "",
        "{}",
        "null",
        r#"{"minutes":0}"#,
        r#"{"minutes":61}"#,
        r#"{"minutes":-5}"#,
        r#"{"minutes":1.5}"#,
        r#"{"minutes":"5"}"#,
        r#"{"minutes":null}"#,
        r#"{"minutes":99999999999999999999}"#,
        r#"{"hours":1}"#,
        "{",
    ];
    for body in bodies {
        server.call("POST", &format!("{path}/extend"), body).await.assert_error(400, "INVALID_REQUEST");
    }
    assert_eq!(server.call("GET", &path, "").await.json()["expires_at"], before);
}

#[tokio::test]
async fn an_extension_beyond_the_maximum_ttl_is_refused_and_changes_nothing() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "10m"), ("POOL_MAX_TTL", "30m")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let extend = async |minutes: u32| {
        server.call("POST", &format!("{path}/extend"), &format!(r#"{{"minutes":{minutes}}}"#)).await
    };
    let expires = async || server.call("GET", &path, "").await.json()["expires_at"].clone();
    let before = expires().await;
    let body = extend(21).await.assert_error(400, "MAX_TTL_EXCEEDED");
    assert_eq!(body["details"], "at most 30 minutes from assignment");
    assert_eq!(expires().await, before);
    // An extension up to exactly the maximum is allowed.
    assert_eq!(extend(20).await.status, 200);
    let last = expires().await;
    extend(1).await.assert_error(400, "MAX_TTL_EXCEEDED");
    assert_eq!(expires().await, last);
}
