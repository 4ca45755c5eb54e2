//! Clients of HTTP/1.0, among them the health checks of load balancers.

use crate::support::harness::{RawConnection, Server, get};

/// Returns the name of each kind of connection, and a connection of it: its first request comes yet, or the engine that
/// holds it is the one of the API or of instances.
async fn connections(server: &Server, instance: &str) -> Vec<(String, RawConnection)> {
    let mut all = Vec::new();
    for first in [None, Some("localhost"), Some(instance)] {
        let connection = RawConnection::connect(server.port).await.after(first).await;
        all.push((format!("after {first:?}"), connection));
    }
    all
}

#[tokio::test]
async fn the_plain_health_checks_of_load_balancers_get_200() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for check in [
        "GET /health HTTP/1.0\r\n\r\n",
        "HEAD /health HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
        "OPTIONS / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\n\r\n",
        "GET http://localhost/health HTTP/1.0\r\n\r\n",
        "GET /health HTTP/1.0\r\nUser-Agent: check\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "OPTIONS /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ] {
        for (name, mut connection) in connections(&server, &instance.host).await {
            connection.send(check).await;
            let head = connection.read_head().await;
            assert_eq!(head.status, 200, "{check:?} {name}");
            assert!(!head.headers.contains_key("transfer-encoding"), "{check:?} {name}");
            let length = head.headers["content-length"].to_str().unwrap().parse::<usize>().unwrap();
            let body = connection.read_to_end().await;
            let is_head = check.starts_with("HEAD");
            assert_eq!(body.len(), if is_head { 0 } else { length }, "{check:?} {name}");
            if check.starts_with("OPTIONS") {
                assert!(head.headers["allow"].to_str().unwrap().contains("OPTIONS"), "{check:?} {name}");
            }
        }
    }
    // A request of HTTP/1.1 must name its host, and an instance is found by its host alone.
    for (name, mut connection) in connections(&server, &instance.host).await {
        connection.send("GET /health HTTP/1.1\r\n\r\n").await;
        connection.read_answer().await.assert_error(400, "INVALID_REQUEST");
        connection.assert_closed().await;
        let mut connection = RawConnection::connect(server.port).await;
        connection.send("GET /whoami HTTP/1.0\r\n\r\n").await;
        assert_eq!(connection.read_answer().await.status, 404, "{name}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_answer() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let host = &instance.host;
    for expect in ["", "Expect: 100-continue\r\n"] {
        for (name, mut connection) in connections(&server, host).await {
            connection
                .send(format!(
                    "POST /interim HTTP/1.0\r\nHost: {host}\r\n{expect}Content-Length: 5\r\n\r\nhello"
                ))
                .await;
            assert_eq!(connection.read_head().await.status, 200, "{expect:?} {name}");
            assert_eq!(connection.read_to_end().await, b"after the hints", "{expect:?} {name}");
        }
        for (name, mut connection) in connections(&server, host).await {
            let path = "/api/v1/demo/acquire";
            connection
                .send(format!(
                    "POST {path} HTTP/1.0\r\nHost: localhost\r\n{expect}Content-Length: 2\r\n\r\n{{}}"
                ))
                .await;
            let status = connection.read_head().await.status;
            assert!([200, 503].contains(&status), "{expect:?} {name}: {status}");
        }
    }
    // The app does not learn of the expectation, and a client of HTTP/1.1 gets what the app sends.
    let seen = get(server.port, host, "/seen").await.text().to_ascii_lowercase();
    assert!(seen.contains("post /interim") && !seen.contains("expect:"), "{seen}");
    let mut connection = RawConnection::connect(server.port).await;
    connection.send(format!("GET /interim HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(connection.read_head().await.status, 103);
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_upgrade() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for (name, mut connection) in connections(&server, &instance.host).await {
        connection
            .send(format!(
                "GET /ws HTTP/1.0\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                instance.host
            ))
            .await;
        assert_eq!(connection.read_head().await.status, 502, "{name}");
    }
    let seen = get(server.port, &instance.host, "/seen").await.text().to_ascii_lowercase();
    assert!(seen.contains("get /ws") && !seen.contains("\r\nupgrade:"), "{seen}");
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_if_it_asks_to() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for (host, path) in [("localhost", "/health"), (instance.host.as_str(), "/whoami")] {
        for (name, mut connection) in connections(&server, &instance.host).await {
            for _ in 0..2 {
                connection
                    .send(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: Keep-Alive\r\n\r\n"))
                    .await;
                let answer = connection.read_answer().await;
                assert_eq!(answer.status, 200, "{host} {name}");
                assert_eq!(answer.header("connection").to_ascii_lowercase(), "keep-alive", "{host} {name}");
            }
            connection.send(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")).await;
            let answer = connection.read_answer().await;
            assert_ne!(answer.header("connection").to_ascii_lowercase(), "keep-alive", "{host} {name}");
            connection.assert_closed().await;
        }
    }
    // The end of an answer without a length is the end of the connection, whatever the client asks for.
    for (host, path) in [
        (instance.host.as_str(), "/download?bytes=1000&chunked=1".to_owned()),
        (instance.host.as_str(), "/events".to_owned()),
        ("localhost", format!("/api/v1/demo/{}/status", instance.id)),
    ] {
        for (name, mut connection) in connections(&server, &instance.host).await {
            connection
                .send(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n"))
                .await;
            let head = connection.read_head().await;
            assert_eq!(head.status, 200, "{path} {name}");
            for field in ["transfer-encoding", "trailer", "upgrade"] {
                assert!(!head.headers.contains_key(field), "{path} {name}: {field}");
            }
            let says = head.headers.get("connection").map_or("", |value| value.to_str().unwrap());
            assert_ne!(says.to_ascii_lowercase(), "keep-alive", "{path} {name}");
        }
    }
}
