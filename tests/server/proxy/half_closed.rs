//! Clients that send a whole request, close their write half, and read: they get the whole answer.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::harness::{
    AcquiredInstance, Answer, Certificate, RawConnection, Server, eventually, get,
};

/// A server in the clear and one with TLS, each with the sample app as its default template.
struct Servers {
    clear: (Server, AcquiredInstance),
    encrypted: (Server, AcquiredInstance, Certificate),
}

impl Servers {
    async fn start() -> Self {
        let clear = Server::start(&[]).await;
        let acquired = clear.acquire().await;
        let (encrypted, certificate) = Server::with_tls().await;
        let instance = certificate.acquire(encrypted.port).await;
        Self { clear: (clear, acquired), encrypted: (encrypted, instance, certificate) }
    }

    /// Returns a new connection for each engine, with and without TLS, each with an instance of its server. On the first
    /// of two connections the next request is its first.
    async fn connections(&self) -> Vec<(String, RawConnection, AcquiredInstance)> {
        let mut all = Vec::new();
        for is_encrypted in [false, true] {
            let instance = if is_encrypted { &self.encrypted.1 } else { &self.clear.1 };
            for first in [None, Some("localhost"), Some(instance.host.as_str())] {
                let connection = if is_encrypted {
                    let (server, _, certificate) = &self.encrypted;
                    RawConnection::over(certificate.connect(server.port, &[]).await.unwrap())
                } else {
                    RawConnection::connect(self.clear.0.port).await
                };
                let connection = connection.after(first).await;
                all.push((format!("TLS {is_encrypted}, after {first:?}"), connection, instance.clone()));
            }
        }
        all
    }
}

/// Sends these bytes, closes the write half, and reads one answer.
async fn half_closed(connection: &mut RawConnection, bytes: &str) -> Answer {
    connection.send(bytes).await;
    connection.shutdown_write().await;
    connection.read_answer().await
}

#[tokio::test]
async fn a_client_that_closed_its_write_half_gets_the_answer_of_an_instance() {
    let servers = Servers::start().await;
    for (request, bytes) in [
        ("GET /whoami HTTP/1.1\r\nHost: {host}\r\n\r\n", None),
        ("POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello", Some(5)),
        (
            "POST /upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            Some(2),
        ),
        ("GET /whoami HTTP/1.0\r\nHost: {host}\r\n\r\n", None),
    ] {
        for (name, mut connection, instance) in servers.connections().await {
            let answer = half_closed(&mut connection, &request.replace("{host}", &instance.host)).await;
            assert_eq!(answer.status, 200, "{name}: {request} {}", answer.text());
            match bytes {
                Some(bytes) => assert_eq!(answer.json()["bytes"], bytes, "{name}"),
                None => assert_eq!(answer.json()["id"], instance.id.as_str(), "{name}"),
            }
            connection.assert_closed().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_closed_its_write_half_gets_the_answers_of_the_api() {
    let servers = Servers::start().await;
    for (name, mut connection, instance) in servers.connections().await {
        let request = format!("GET /api/v1/demo/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", instance.id);
        let answer = half_closed(&mut connection, &request).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.json()["id"], instance.id.as_str());
        connection.assert_closed().await;
    }
    let acquire = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for (name, mut connection, _) in servers.connections().await.into_iter().take(3) {
        let server = &servers.clear.0;
        eventually("an instance is ready", async || (server.stats().await["ready"] != 0).then_some(())).await;
        let answer = half_closed(&mut connection, acquire).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let acquired = AcquiredInstance::from_json(&answer.json());
        connection.assert_closed().await;
        // The answer counts as delivered.
        assert_eq!(get(server.port, &acquired.host, "/whoami").await.json()["id"], acquired.id.as_str());
        let kept = server.call("GET", &format!("/api/v1/demo/{}", acquired.id), "").await;
        assert_eq!(kept.status, 200, "{name}: {}", kept.text());
    }
}

#[tokio::test]
async fn every_pipelined_request_before_the_close_of_the_write_half_is_answered() {
    let servers = Servers::start().await;
    for (name, mut connection, instance) in servers.connections().await {
        let host = &instance.host;
        connection
            .send(format!(
                "GET /whoami HTTP/1.1\r\nHost: {host}\r\n\r\n\
                 GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n\
                 POST /upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\n\r\nGET /download?bytes=3000000 HTTP/1.1\r\nHost: {host}\r\n\r\n"
            ))
            .await;
        connection.shutdown_write().await;
        assert_eq!(connection.read_answer().await.json()["id"], instance.id.as_str(), "{name}");
        assert_eq!(connection.read_answer().await.status, 200, "{name}");
        assert_eq!(connection.read_answer().await.json()["bytes"], 3, "{name}");
        // More than any buffer between the app and the client holds.
        assert_eq!(connection.read_answer().await.body.len(), 3_000_000, "{name}");
        connection.assert_closed().await;
    }
}

/// Reads a body until this text has arrived twice.
async fn read_until_twice(connection: &mut RawConnection, wanted: &str) {
    let mut text = String::new();
    while text.matches(wanted).count() < 2 {
        text += &String::from_utf8_lossy(&connection.read_bytes(1).await);
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_the_client_has_closed_its_write_half() {
    let servers = Servers::start().await;
    for (name, mut connection, instance) in servers.connections().await {
        connection.send(format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
        assert_eq!(connection.read_head().await.status, 200, "{name}");
        connection.shutdown_write().await;
        read_until_twice(&mut connection, "data: ").await;
    }
    for (name, mut connection, instance) in servers.connections().await {
        let path = format!("/api/v1/demo/{}/status", instance.id);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        connection.shutdown_write().await;
        assert_eq!(connection.read_head().await.status, 200, "{name}");
        read_until_twice(&mut connection, "event: ttl").await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_clients_fault() {
    let servers = Servers::start().await;
    for framing in ["Content-Length: 5\r\n\r\nhel", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"] {
        for path in ["/upload", "/api/v1/demo/acquire"] {
            for (name, mut connection, instance) in servers.connections().await {
                let host = if path == "/upload" { &instance.host } else { "localhost" };
                let request = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{framing}");
                let answer = half_closed(&mut connection, &request).await;
                let error = answer.assert_error(400, "INVALID_REQUEST");
                let text = error["error"].as_str().unwrap();
                assert!(text.contains("body") && !text.contains("head"), "{name}: {text}");
                connection.assert_closed().await;
            }
        }
    }
}

#[tokio::test]
async fn a_half_closed_client_holds_its_request_until_it_resets_the_connection() {
    let server = Server::with_fake_upstream(&[("MAX_REQUESTS_PER_INSTANCE", "1")]).await;
    let instance = server.acquire().await;
    for first in [None, Some("localhost")] {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        stream.set_zero_linger().unwrap();
        let mut connection = RawConnection::over(stream).after(first).await;
        connection.send(format!("GET /silent-stream HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
        assert_eq!(connection.read_head().await.status, 200);
        connection.shutdown_write().await;
        for _ in 0..10 {
            assert_eq!(get(server.port, &instance.host, "/").await.status, 503, "after {first:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(connection);
        eventually("the request has ended", async || {
            (get(server.port, &instance.host, "/").await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_may_close_its_write_half_right_after_the_handshake_of_a_websocket() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for first in [None, Some("localhost"), Some(instance.host.as_str())] {
        let mut connection = RawConnection::connect(server.port).await.after(first).await;
        connection
            .send(format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nechoed",
                instance.host
            ))
            .await;
        connection.shutdown_write().await;
        assert_eq!(connection.read_head().await.status, 101, "after {first:?}");
        assert_eq!(connection.read_to_end().await, b"firstechoed", "after {first:?}");
    }
}
