//! What an app and its visitor receive of each other's messages.

use serde_json::Value;

use crate::support::harness::{
    AcquiredInstance, Answer, RawConnection, Server, get, h2_request, h2c, request,
};

async fn whoami(server: &Server, instance: &AcquiredInstance, headers: &[(&str, &str)]) -> (Answer, Value) {
    let answer = request(server.port, "GET", &instance.host, "/whoami?a=1&b=%20", headers, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    (answer, seen)
}

fn field<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    seen["headers"][name]
        .as_array()
        .map_or(Vec::new(), |all| all.iter().map(|v| v.as_str().unwrap()).collect())
}

/// Headers that a client sends although only a trusted proxy may set them, and hop-by-hop headers.
const UNTRUSTED_HEADERS: [(&str, &str); 15] = [
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example.test"),
    ("x-forwarded-port", "1"),
    ("forwarded", "for=6.6.6.6"),
    ("x-real-ip", "6.6.6.6"),
    ("cf-connecting-ip", "6.6.6.6"),
    ("x-forwarded-prefix", "/evil"),
    ("x-api-key", "secret"),
    ("x-demo-expires-at", "2099-01-01T00:00:00Z"),
    ("proxy-authorization", "Basic eDp5"),
    ("te", "trailers"),
    ("keep-alive", "timeout=5"),
    ("x-private", "1"),
    ("connection", "keep-alive, X-Private"),
];

fn assert_headers_are_replaced(seen: &Value, instance: &AcquiredInstance, server: &Server) {
    for name in [
        "x-forwarded-port",
        "forwarded",
        "x-real-ip",
        "cf-connecting-ip",
        "x-forwarded-prefix",
        "x-api-key",
        "proxy-authorization",
        "te",
        "keep-alive",
        "x-private",
        "connection",
    ] {
        assert!(field(seen, name).is_empty(), "{name}: {seen}");
    }
    assert_eq!(field(seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(field(seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(field(seen, "x-forwarded-host"), [instance.host.as_str()]);
    assert_eq!(field(seen, "host"), [instance.host.as_str()]);
    assert!(instance.host.ends_with(&format!(":{}", server.port)));
    let expires = field(seen, "x-demo-expires-at");
    assert!(expires.len() == 1 && expires[0].starts_with("20") && !expires[0].starts_with("2099"), "{seen}");
}

#[tokio::test]
async fn forwarding_headers_of_an_untrusted_client_are_replaced() {
    let server = Server::start(&[("TRUSTED_PROXIES", "192.0.2.1")]).await;
    let instance = server.acquire().await;
    let (_, seen) = whoami(&server, &instance, &UNTRUSTED_HEADERS).await;
    assert_headers_are_replaced(&seen, &instance, &server);
    assert_eq!((&seen["path"], &seen["query"]), (&"/whoami".into(), &"a=1&b=%20".into()));

    // The same holds on a connection that began with the API, and over HTTP/2.
    let fields: String =
        UNTRUSTED_HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut connection = RawConnection::connect(server.port).await;
    assert_eq!(connection.get("localhost", "/health").await.status, 200);
    connection.send(format!("GET /whoami HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", instance.host)).await;
    assert_headers_are_replaced(&connection.read_answer().await.json(), &instance, &server);

    let send = h2c(server.port).await;
    let mut request = http::Request::get(format!("http://{}/whoami", instance.host));
    for (name, value) in UNTRUSTED_HEADERS {
        // HTTP/2 does not allow these fields.
        if !["connection", "keep-alive", "x-private"].contains(&name) {
            request = request.header(name, value);
        }
    }
    let answer = h2_request(&send, request.body(()).unwrap()).await.unwrap();
    assert_headers_are_replaced(&answer.json(), &instance, &server);
}

#[tokio::test]
async fn forwarding_headers_of_a_trusted_proxy_are_kept_and_its_address_is_added() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let (_, seen) = whoami(&server, &instance, &UNTRUSTED_HEADERS).await;
    assert_eq!(field(&seen, "x-forwarded-for"), ["6.6.6.6, 127.0.0.1"]);
    assert_eq!(field(&seen, "x-forwarded-proto"), ["https"]);
    assert_eq!(field(&seen, "x-forwarded-host"), ["evil.example.test"]);
    for (name, value) in [
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
    ] {
        assert_eq!(field(&seen, name), [value], "{name}");
    }
    assert!(field(&seen, "x-api-key").is_empty());
    assert!(!field(&seen, "x-demo-expires-at")[0].starts_with("2099"));
}

#[tokio::test]
async fn a_request_has_one_id_for_the_visitor_the_app_and_the_log() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let (answer, seen) = whoami(&server, &instance, &[("x-request-id", "my-own.id_7")]).await;
    assert_eq!(answer.header("x-request-id"), "my-own.id_7");
    assert_eq!(field(&seen, "x-request-id"), ["my-own.id_7"]);
    let long = "a".repeat(129);
    for fake in [None, Some("with a blank"), Some(long.as_str()), Some("")] {
        let headers: Vec<_> = fake.iter().map(|id| ("x-request-id", *id)).collect();
        let (answer, seen) = whoami(&server, &instance, &headers).await;
        let id = answer.header("x-request-id");
        assert_eq!(id.len(), 36, "{id}");
        assert_eq!(field(&seen, "x-request-id"), [id]);
    }
    crate::support::harness::eventually("the id is logged", async || {
        server.log().iter().any(|line| line.contains("my-own.id_7")).then_some(())
    })
    .await;
    assert!(!server.log().iter().any(|line| line.contains("b=%20")), "no query string is logged");
}

#[tokio::test]
async fn an_app_gets_all_cookies_on_one_line() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    // More than the fields that a request may have.
    let cookies: Vec<String> = (0..150).map(|n| format!("c{n}=v{n}")).collect();
    let mut request = http::Request::get(format!("http://{}/whoami", instance.host));
    for cookie in &cookies {
        request = request.header("cookie", cookie);
    }
    let send = h2c(server.port).await;
    let seen = h2_request(&send, request.body(()).unwrap()).await.unwrap();
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(field(&seen.json(), "cookie"), [cookies.join("; ")]);
    // HTTP/1 clients send one line, but some proxies send several.
    let two = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")];
    let (_, seen) = whoami(&server, &instance, &two).await;
    assert_eq!(field(&seen, "cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn a_handshake_has_all_cookies_on_one_line() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let mut connection = RawConnection::connect(server.port).await;
    connection
        .send(format!(
            "GET /ws-declined HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Cookie: a=1\r\nCookie: b=2\r\n\r\n",
            instance.host
        ))
        .await;
    assert_eq!(connection.read_answer().await.status, 403);
    let seen = get(server.port, &instance.host, "/seen").await.text();
    assert!(seen.to_ascii_lowercase().contains("\r\ncookie: a=1; b=2\r\n"), "{seen}");
}

#[tokio::test]
async fn a_redirect_to_the_inner_port_leads_to_the_public_one() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for connection in &mut both_kinds_of_connection(&server).await {
        let answer = connection.get(&instance.host, "/redirect").await;
        assert_eq!(answer.status, 301);
        // The host of the harness has the public port.
        assert_eq!(answer.header("location"), format!("http://{}/dir/", instance.host));
        assert_eq!(answer.header("refresh"), format!("0;url=//{}/dir/", instance.host));
        assert!(answer.header("content-location").starts_with("http://other.example.test:"));
    }
}

#[tokio::test]
async fn a_cookie_of_an_app_loses_its_domain() {
    let server = Server::with_fake_upstream(&[]).await;
    let (fake, book) = (server.acquire().await, server.acquire_of("book").await);
    let answer = get(server.port, &fake.host, "/cookies").await;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2; HttpOnly", "c=3"]);
    let answer = get(server.port, &book.host, "/cookie?domain=localhost").await;
    assert_eq!(answer.header("set-cookie"), "demo=1; Path=/; HttpOnly; SameSite=Lax");
}

#[tokio::test]
async fn hop_by_hop_headers_of_the_app_are_not_forwarded() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let mut connections =
        [RawConnection::connect(server.port).await, RawConnection::connect(server.port).await];
    assert_eq!(connections[1].get("localhost", "/health").await.status, 200);
    for connection in &mut connections {
        let answer = connection.get(&instance.host, "/hop").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        for name in ["x-private", "keep-alive", "proxy-connection", "upgrade"] {
            assert_eq!(answer.header(name), "", "{name}");
        }
        assert_eq!(answer.header("x-public"), "1");
        assert_eq!(connection.get(&instance.host, "/").await.text(), instance.id);
    }
}

/// Returns a connection that begins with an instance and one that begins with the API.
async fn both_kinds_of_connection(server: &Server) -> [RawConnection; 2] {
    let mut connections =
        [RawConnection::connect(server.port).await, RawConnection::connect(server.port).await];
    assert_eq!(connections[1].get("localhost", "/health").await.status, 200);
    connections
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_order() {
    let server = Server::with_fake_upstream(&[]).await;
    let (fake, book) = (server.acquire().await, server.acquire_of("book").await);
    for connection in &mut both_kinds_of_connection(&server).await {
        for (path, status) in [("/no-content", 204), ("/not-modified", 304), ("/no-content", 204)] {
            let answer = connection.get(&fake.host, path).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("transfer-encoding"), "");
        }
        for path in ["/download?bytes=70000", "/download?bytes=70000&chunked=1"] {
            connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: {}\r\n\r\n", book.host)).await;
            let head = connection.read_head().await;
            assert_eq!(head.status, 200);
            if !path.contains("chunked") {
                assert_eq!(head.headers["content-length"], "70000");
            }
        }
        assert_eq!(connection.get(&fake.host, "/").await.text(), fake.id);
        connection.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(connection.read_head().await.status, 200);
        assert_eq!(connection.get(&book.host, "/whoami").await.json()["id"], book.id);
    }
}

#[tokio::test]
async fn chunks_and_trailers_pass_in_both_directions() {
    let server = Server::with_fake_upstream(&[]).await;
    let (fake, book) = (server.acquire().await, server.acquire_of("book").await);
    for connection in &mut both_kinds_of_connection(&server).await {
        assert_eq!(connection.get(&fake.host, "/trailers").await.text(), "hello");
        assert_eq!(connection.get(&fake.host, "/until-closed").await.text(), "until the end");
        let complete = connection.get(&book.host, "/download?bytes=100000&chunked=1").await;
        assert_eq!(complete.header("transfer-encoding"), "chunked");
        assert!(complete.body.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n % 251));
        assert_eq!(complete.body.len(), 100_000);
        for (framing, body) in [
            ("Transfer-Encoding: chunked", "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"),
            ("Transfer-Encoding: chunked", "0\r\n\r\n"),
            ("Content-Length: 5", "abcde"),
            ("Content-Length: 0", ""),
        ] {
            connection
                .send(format!("POST /upload HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n{body}", book.host))
                .await;
            let sum = connection.read_answer().await.json();
            let complete = body.contains("ab");
            assert_eq!(sum["bytes"], if complete { 5 } else { 0 }, "{framing} {body}");
            assert_eq!(sum["xor"], if complete { b'a' ^ b'b' ^ b'c' ^ b'd' ^ b'e' } else { 0 });
        }
        assert_eq!(connection.get("localhost", "/health").await.status, 200);
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_from_both_sides() {
    let server = Server::with_fake_upstream(&[]).await;
    let book = server.acquire_of("book").await;
    for (host, path) in [(book.host.as_str(), "/upload"), ("localhost", "/api/v1/demo/acquire")] {
        for first in [None, Some("localhost"), Some(&book.host)] {
            let mut connection = RawConnection::connect(server.port).await.after(first).await;
            connection.send(format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            ))
            .await;
            assert_eq!(connection.read_head().await.status, 100, "{host} after {first:?}");
            connection.send("{}").await;
            let answer = connection.read_answer().await;
            assert!([200, 503].contains(&answer.status), "{host}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_has_ended_arrives() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for connection in &mut both_kinds_of_connection(&server).await {
        connection
            .send(format!(
                "POST /early HTTP/1.1\r\nHost: {}\r\nContent-Length: 100000\r\n\r\nabc",
                instance.host
            ))
            .await;
        let answer = connection.read_answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
    }
}

#[tokio::test]
async fn a_body_for_the_api_over_64_kib_is_refused_on_both_kinds_of_connection() {
    let server = Server::with_fake_upstream(&[]).await;
    for framing in ["Content-Length: 65537\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n10001\r\n"] {
        let instance = server.acquire().await;
        for first in ["localhost", &instance.host] {
            let mut connection = RawConnection::connect(server.port).await;
            assert_eq!(connection.get(first, "/health").await.status, 200);
            connection
                .send(format!("POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\n{framing}"))
                .await;
            // The server may close the connection before the last byte.
            let _ = connection.try_send(vec![b' '; 65_537]).await;
            let answer = connection.read_answer().await;
            assert_eq!(
                (answer.status, &answer.json()["code"]),
                (413, &"TOO_LARGE".into()),
                "{first} {framing}"
            );
            connection.assert_closed().await;
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection() {
    let server = Server::with_fake_upstream(&[]).await;
    let (fake, book) = (server.acquire().await, server.acquire_of("book").await);
    let asks = [
        (&book, "/download?bytes=100000&chunked=1", 100_000),
        (&fake, "/until-closed", 13),
        (&fake, "/trailers", 5),
    ];
    for first in [None, Some("localhost"), Some(book.host.as_str())] {
        for (n, (instance, path, size)) in asks.into_iter().chain(asks).enumerate() {
            let keep_alive = if n < asks.len() { "" } else { "Connection: keep-alive\r\n" };
            let mut connection = RawConnection::connect(server.port).await.after(first).await;
            connection
                .send(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n{keep_alive}\r\n", instance.host))
                .await;
            let answer = connection.read_answer().await;
            assert_eq!(
                (answer.status, answer.header("transfer-encoding")),
                (200, ""),
                "{path} after {first:?}"
            );
            assert_eq!(answer.body.len(), size, "{path} after {first:?}");
            connection.assert_closed().await;
        }
    }
    // An answer with a length keeps the connection open.
    let mut connection = RawConnection::connect(server.port).await;
    for _ in 0..3 {
        let keep = "Connection: keep-alive\r\n";
        connection.send(format!("GET / HTTP/1.0\r\nHost: {}\r\n{keep}\r\n", fake.host)).await;
        assert_eq!(connection.read_answer().await.text(), fake.id);
    }
}

#[tokio::test]
async fn a_chunked_upload_reaches_the_app_whole_when_its_last_chunk_comes_late() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for connection in &mut both_kinds_of_connection(&server).await {
        connection
            .send(format!(
                "POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
                instance.host
            ))
            .await;
        for byte in b"3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n" {
            connection.send([*byte]).await;
        }
        assert_eq!(connection.read_answer().await.json()["bytes"], 4);
        assert_eq!(connection.get(&instance.host, "/whoami").await.json()["id"], instance.id.as_str());
    }
}
