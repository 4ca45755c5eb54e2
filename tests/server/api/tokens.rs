//! The HTTP contract: what the operator, an instance's visitor and everyone else may do.
//!
//! A stranger is a client on another host: its requests come through a proxy that says so.

use serde_json::{Value, json};

use crate::support::harness::{Answer, Server, eventually, get, h2_request, h2c, request};

const STRANGER: (&str, &str) = ("x-forwarded-for", "203.0.113.9");
/// The operator's calls.
const OPERATORS: [(&str, &str); 4] = [
    ("GET", "/metrics"),
    ("GET", "/api/v1/nodes"),
    ("POST", "/api/v1/nodes/{node}/drain"),
    ("DELETE", "/api/v1/nodes/{node}/drain"),
];

async fn start(variables: &[(&str, &str)]) -> Server {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let templates = format!(
        "[templates.default]\ncommand = [\"{program}\", \"sample-app\"]\n[templates.default.hooks]\n\
         random = {{ KEY = 16 }}\ncredentials = \"Log in with {{KEY}}\"\n"
    );
    Server::with_file(variables, &templates).await.full().await
}

async fn acquire(server: &Server, headers: &[(&str, &str)]) -> Value {
    let answer = server.request("POST", "/api/v1/demo/acquire", headers, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Calls that need the token of the instance, with a body that is valid. The last ends the instance.
fn guarded(id: &str) -> [(&'static str, String, &'static str); 3] {
    [
        ("GET", format!("/api/v1/demo/{id}/logs"), ""),
        ("POST", format!("/api/v1/demo/{id}/extend"), r#"{"minutes": 1}"#),
        ("DELETE", format!("/api/v1/demo/{id}"), ""),
    ]
}

#[tokio::test]
async fn the_host_name_of_an_instance_opens_the_app_and_nothing_else() {
    let server = start(&[]).await;
    let victim = acquire(&server, &[STRANGER]).await;
    let attacker = acquire(&server, &[("x-forwarded-for", "198.51.100.7")]).await;
    let (id, token) = (victim["id"].as_str().unwrap(), victim["token"].as_str().unwrap());
    let credentials = &victim["credentials"];
    assert!(credentials.as_str().unwrap().starts_with("Log in with "), "{victim}");
    assert_eq!(token.len(), 22, "128 bits in base64url");
    assert_ne!(victim["token"], attacker["token"]);
    assert_eq!(get(server.port, &format!("{id}.localhost"), "/").await.status, 200);

    let state = format!("/api/v1/demo/{id}");
    let shown = server.request("GET", &state, &[STRANGER], "").await.json();
    assert_eq!((&shown["state"], &shown["credentials"]), (&json!("assigned"), &Value::Null));
    let wrong =
        [attacker["token"].as_str().unwrap(), "", "x", &token[..21], &format!("{token}=")].map(str::to_owned);
    for wrong in &wrong {
        let headers = [STRANGER, ("x-instance-token", wrong)];
        server.request("GET", &state, &headers, "").await.assert_error(403, "FORBIDDEN");
        server.request("GET", &format!("{state}/status"), &headers, "").await.assert_error(403, "FORBIDDEN");
        // A program on this host needs no token, and a wrong one is wrong.
        let local = [("x-instance-token", wrong.as_str())];
        server.request("GET", &state, &local, "").await.assert_error(403, "FORBIDDEN");
    }
    let in_query = format!("{state}/status?token={}", attacker["token"].as_str().unwrap());
    server.request("GET", &in_query, &[STRANGER], "").await.assert_error(403, "FORBIDDEN");
    for (method, path, body) in guarded(id) {
        server.request(method, &path, &[STRANGER], body).await.assert_error(403, "FORBIDDEN");
        for wrong in &wrong {
            let headers = [STRANGER, ("x-instance-token", wrong)];
            server.request(method, &path, &headers, body).await.assert_error(403, "FORBIDDEN");
        }
        // The query is for event streams only: addresses are kept in histories and logs.
        let in_query = format!("{path}?token={token}");
        server.request(method, &in_query, &[STRANGER], body).await.assert_error(403, "FORBIDDEN");
    }
    let after = server.request("GET", &state, &[STRANGER], "").await.json();
    assert_eq!((&after["state"], &after["expires_at"]), (&json!("assigned"), &victim["expires_at"]));

    let own = [STRANGER, ("x-instance-token", token)];
    assert_eq!(&server.request("GET", &state, &own, "").await.json()["credentials"], credentials);
    for (method, path, body) in guarded(id) {
        let answer = server.request(method, &path, &own, body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    assert_eq!(get(server.port, &format!("{id}.localhost"), "/").await.status, 404, "it was released");
    for (method, path, body) in guarded(id) {
        server.request(method, &path, &own, body).await.assert_error(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn over_http_2_an_instance_needs_its_token_as_well() {
    let server = start(&[]).await;
    let victim = acquire(&server, &[STRANGER]).await;
    let (id, token) = (victim["id"].as_str().unwrap(), victim["token"].as_str().unwrap());
    let send = h2c(server.port).await;
    for (offered, expected) in [(None, 403), (Some("wrong"), 403), (Some(token), 200)] {
        let mut request = http::Request::delete(format!("http://localhost/api/v1/demo/{id}"))
            .header(STRANGER.0, STRANGER.1);
        if let Some(token) = offered {
            request = request.header("x-instance-token", token);
        }
        let answer = h2_request(&send, request.body(()).unwrap()).await.unwrap();
        assert_eq!(answer.status, expected, "{offered:?}");
    }
}

#[tokio::test]
async fn a_program_on_this_host_and_the_api_key_stand_for_every_token() {
    let server = start(&[]).await;
    let key = std::fs::read_to_string(server.folder().join("api-key")).unwrap();
    for headers in
        [&[][..], &[STRANGER, ("x-api-key", &key)], &[("x-api-key", &key), ("x-instance-token", "x")]]
    {
        let acquired = eventually("an instance is ready", async || {
            let answer = server.request("POST", "/api/v1/demo/acquire", &[STRANGER], "").await;
            (answer.status == 200).then(|| answer.json())
        })
        .await;
        let id = acquired["id"].as_str().unwrap();
        let shown = server.request("GET", &format!("/api/v1/demo/{id}"), headers, "").await.json();
        assert_eq!(shown["credentials"], acquired["credentials"], "{headers:?}");
        for (method, path, body) in guarded(id) {
            let answer = server.request(method, &path, headers, body).await;
            assert_eq!(answer.status, 200, "{method} {path} {headers:?}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn an_operators_call_needs_the_key_or_a_program_on_this_host() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(&[("BASE_DOMAIN", "try.example")]).await;
    let file = server.folder().join("api-key");
    let key = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server.log_until(|line| line.contains("API_KEY is not set") && line.contains("api-key")).await;
    assert!(!server.log().iter().any(|line| line.contains(&key)), "the key itself is not logged");
    let call = async |method: &str, path: &str, host: &str, headers: &[(&str, &str)]| -> Answer {
        request(server.port, method, host, &path.replace("{node}", server.node()), headers, "").await
    };
    for (method, path) in OPERATORS {
        for proxied in [
            STRANGER,
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-for", "::1"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("via", "1.1 proxy"),
        ] {
            call(method, path, "localhost", &[proxied]).await.assert_error(401, "UNAUTHORIZED");
            let wrong = [proxied, ("x-api-key", "wrong")];
            call(method, path, "localhost", &wrong).await.assert_error(401, "UNAUTHORIZED");
        }
        // A proxy on this host that says nothing of itself still forwards the name that its visitors use.
        call(method, path, "try.example", &[]).await.assert_error(401, "UNAUTHORIZED");
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            assert_eq!(call(method, path, host, &[]).await.status, 200, "{method} {path} {host}");
        }
        for host in ["localhost", "try.example"] {
            let answer = call(method, path, host, &[STRANGER, ("x-api-key", &key)]).await;
            assert_eq!(answer.status, 200, "{method} {path} {host}");
        }
    }
    // The other calls stay open.
    let stats = call("GET", "/api/v1/pool/stats", "try.example", &[STRANGER]).await;
    assert_eq!((stats.status, stats.json()["ready"].as_u64()), (200, Some(2)), "no stranger has drained it");
    acquire(&server, &[STRANGER]).await;
}

#[tokio::test]
async fn with_an_api_key_a_program_on_this_host_needs_it_too() {
    let server = Server::start_with(&[("API_KEY", "correct horse")], &[]).await;
    assert!(!server.folder().join("api-key").exists());
    let key = ("x-api-key", "correct horse");
    let acquired = eventually("an instance is ready", async || {
        let answer = server.request("POST", "/api/v1/demo/acquire", &[key], "").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let (id, token) = (acquired["id"].as_str().unwrap(), acquired["token"].as_str().unwrap());
    for (method, path) in OPERATORS {
        let path = path.replace("{node}", server.node());
        server.request(method, &path, &[], "").await.assert_error(401, "UNAUTHORIZED");
        assert_eq!(server.request(method, &path, &[key], "").await.status, 200, "{method} {path}");
    }
    for (method, path, body) in guarded(id) {
        let with_token = [("x-instance-token", token)];
        server.request(method, &path, &with_token, body).await.assert_error(401, "UNAUTHORIZED");
        assert_eq!(server.request(method, &path, &[key], body).await.status, 200, "{method} {path}");
    }
}

#[tokio::test]
async fn the_key_of_a_server_outlives_a_restart() {
    let mut server = Server::start(&[]).await;
    let key = std::fs::read_to_string(server.folder().join("api-key")).unwrap();
    let folder = server.keep_folder();
    server.signal("KILL");
    server.wait_for_exit().await;
    let server = Server::start_in(folder, &[], &[]).await;
    let headers = [STRANGER, ("x-api-key", key.as_str())];
    assert_eq!(server.request("GET", "/metrics", &headers, "").await.status, 200);
}

#[tokio::test]
async fn only_the_cookie_with_the_token_shows_and_ends_an_instance() {
    let server = start(&[]).await;
    let acquired = server.request("POST", "/try/default", &[STRANGER], "").await;
    assert_eq!(acquired.status, 303);
    let host = acquired.header("location").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let id = host.split('.').next().unwrap();
    let cookie = acquired.header("set-cookie").split(';').next().unwrap();
    let other = acquire(&server, &[STRANGER]).await;
    let forged = [
        format!("instance-default={id}"),
        format!("instance-default={id}."),
        format!("instance-default={id}.AAAAAAAAAAAAAAAAAAAAAA"),
        format!("instance-default={id}.{}", other["token"].as_str().unwrap()),
        format!("{cookie}x"),
    ];
    for forged in &forged {
        let headers = [STRANGER, ("cookie", forged)];
        let page = server.request("GET", "/", &headers, "").await.text();
        assert!(!page.contains("Log in with") && !page.contains(id), "{forged}: {page}");
        server.request("POST", &format!("/end/{id}"), &headers, "").await;
    }
    server.request("POST", &format!("/end/{id}"), &[STRANGER], "").await;
    assert_eq!(get(server.port, &host, "/").await.status, 200, "it was not ended");
    let own = [STRANGER, ("cookie", cookie)];
    let page = server.request("GET", "/", &own, "").await.text();
    assert!(page.contains("Log in with") && page.contains(id), "{page}");
    assert_eq!(server.request("POST", &format!("/end/{id}"), &own, "").await.status, 303);
    assert_eq!(get(server.port, &host, "/").await.status, 404);
}

#[tokio::test]
async fn an_instances_token_is_never_logged_and_never_reaches_an_app() {
    let server = Server::start(&[("LOG_LEVEL", "trace")]).await;
    let acquired = acquire(&server, &[STRANGER]).await;
    let (id, token) = (acquired["id"].as_str().unwrap(), acquired["token"].as_str().unwrap());
    let host = format!("{id}.localhost");
    let seen = request(server.port, "GET", &host, "/whoami", &[("x-instance-token", token)], "").await.json();
    assert_eq!(seen["headers"]["x-instance-token"], Value::Null);
    let headers = [("x-instance-token", token), ("x-request-id", "the-last")];
    server.request("GET", &format!("/nothing?token={token}"), &headers, "").await;
    server.request("DELETE", &format!("/api/v1/demo/{id}"), &headers, "").await;
    let log = server.log_until(|line| line.contains("the-last") && line.contains("DELETE")).await;
    assert!(log.iter().all(|line| !line.contains(token)));
}

#[tokio::test]
async fn the_address_of_an_instance_stays_private() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for (host, path) in [(instance.host.as_str(), "/"), ("default-aaaaaaaaaaaaaaaa.localhost", "/")] {
        for accept in ["text/html", "application/json"] {
            let answer = request(server.port, "GET", host, path, &[("accept", accept)], "").await;
            assert_eq!(answer.header("referrer-policy"), "same-origin", "{host} {accept}");
            assert_eq!(answer.header("x-robots-tag"), "noindex", "{host} {accept}");
        }
    }
    assert_eq!(
        server.request("GET", "/", &[], "").await.header("x-robots-tag"),
        "",
        "the front page is found"
    );
}

#[tokio::test]
async fn the_script_of_a_site_with_a_button_may_send_the_token() {
    let server = Server::start(&[("BUTTON_ORIGINS", "https://market.example.org")]).await;
    let preflight = |origin| [("origin", origin), ("access-control-request-method", "DELETE")];
    let path = "/api/v1/demo/default-aaaaaaaaaaaaaaaa";
    let answer = server.request("OPTIONS", path, &preflight("https://market.example.org"), "").await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-origin"), "https://market.example.org");
    assert!(answer.header("access-control-allow-methods").contains("DELETE"));
    assert!(answer.header("access-control-allow-headers").contains("x-instance-token"));
    for stranger in ["https://evil.example", "null"] {
        let answer = server.request("OPTIONS", path, &preflight(stranger), "").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, ""));
    }
}
