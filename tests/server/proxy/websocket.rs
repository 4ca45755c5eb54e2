//! WebSockets: opened, forwarded in both directions, declined, and closed at the deadline.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::harness::websocket::{echo, handshake, open, receive, wait_for_close};
use crate::support::harness::{MAX_WAIT, RawConnection, Server, get, h2_request, h2c, request};

#[tokio::test]
async fn a_websocket_carries_small_and_large_messages_both_ways() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    assert_eq!(receive(&mut socket, "hello").await["id"], instance.id.as_str());
    for n in 0..100 {
        echo(&mut socket, &n.to_string()).await;
    }
    echo(&mut socket, &"ä".repeat(7_000)).await;
    // Other messages of the app arrive in between.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let signed = request(server.port, "POST", &instance.host, "/entries", &form, "name=Ada&text=Hello").await;
    assert_eq!(signed.status, 303);
    assert_eq!(receive(&mut socket, "entry").await["text"], "Hello");
}

#[tokio::test]
async fn a_close_reaches_the_peer_with_its_reason() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    // The app closes the socket.
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    let close = async {
        loop {
            if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
                return frame.unwrap();
            }
        }
    };
    let frame = timeout(MAX_WAIT, close).await.unwrap();
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Unsupported, "text only"));
    wait_for_close(&mut socket).await;

    // The visitor closes the socket. The app answers and counts one visitor less.
    let mut watcher = open(RawConnection::connect(server.port).await, &instance).await;
    receive(&mut watcher, "hello").await;
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    assert_eq!(receive(&mut watcher, "visitors").await["n"], 2);
    socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).await.unwrap();
    wait_for_close(&mut socket).await;
    assert_eq!(receive(&mut watcher, "visitors").await["n"], 1);

    // The connection of the visitor ends without a close message.
    let socket = open(RawConnection::connect(server.port).await, &instance).await;
    assert_eq!(receive(&mut watcher, "visitors").await["n"], 2);
    drop(socket);
    assert_eq!(receive(&mut watcher, "visitors").await["n"], 1);
}

#[tokio::test]
async fn bytes_sent_together_with_the_handshake_or_its_answer_are_not_lost() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for _ in 0..50 {
        let mut connection = RawConnection::connect(server.port).await;
        connection
            .send(format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly",
                instance.host
            ))
            .await;
        let head = connection.read_head().await;
        assert_eq!(head.status, 101);
        assert_eq!(head.headers["set-cookie"], "a=1");
        assert!(head.headers.contains_key("x-request-id"));
        // After the handshake the bytes are not parsed as HTTP.
        let fake = "GET / HTTP/9\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        connection.send(fake).await;
        let all = format!("firstearly{fake}");
        assert_eq!(String::from_utf8_lossy(&connection.read_bytes(all.len()).await), all);
        // An end in one direction is forwarded, and the other direction ends after it.
        connection.shutdown_write().await;
        connection.assert_closed().await;
    }
}

#[tokio::test]
async fn a_large_stream_passes_through_a_tunnel_unchanged() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let mut connection = RawConnection::connect(server.port).await;
    assert_eq!(handshake(&mut connection, &instance.host, "/ws", "").await.status, 101);
    assert_eq!(connection.read_bytes(5).await, b"first");
    let (stream, read) = connection.into_parts();
    assert!(read.is_empty());
    let (mut from, mut to) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..16 << 20).map(|n: usize| (n % 251) as u8).collect();
    let expected = sent.clone();
    let sending = async {
        use tokio::io::AsyncWriteExt;
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let receiving = async {
        use tokio::io::AsyncReadExt;
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = timeout(MAX_WAIT, async { tokio::join!(sending, receiving) }).await.unwrap();
    assert!(got == expected, "{} of {} bytes arrived, or other bytes", got.len(), expected.len());
}

#[tokio::test]
async fn a_declined_upgrade_returns_the_answer_of_the_app() {
    let server = Server::with_fake_upstream(&[]).await;
    let (fake, book) = (server.acquire().await, server.acquire_of("book").await);
    // A request without a handshake.
    let answer = get(server.port, &book.host, "/live").await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, "13"));
    for before in [&[][..], &["localhost"], &[&fake.host]] {
        for (host, path, status) in
            [(&book.host, "/", 200), (&book.host, "/missing", 404), (&fake.host, "/ws-declined", 403)]
        {
            let mut connection = RawConnection::connect(server.port).await;
            for host in before {
                assert_eq!(connection.get(host, "/health").await.status, 200);
            }
            let head = handshake(&mut connection, host, path, "").await;
            assert_eq!(head.status, status, "{path}");
            assert!(!head.headers.contains_key("upgrade"), "{head:?}");
            let answer = connection.read_body(head).await;
            match path {
                "/ws-declined" => {
                    assert_eq!(answer.text(), "declined");
                    assert_eq!(answer.header("set-cookie"), "a=1");
                }
                "/" => assert!(answer.text().contains(&book.id)),
                _ => {}
            }
            connection.assert_closed().await;
        }
    }
    // A handshake for the API is handled as an ordinary request.
    let mut connection = RawConnection::connect(server.port).await;
    assert_eq!(handshake(&mut connection, "localhost", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_protocol_other_than_websocket_is_not_switched_to() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for (name, upgrade) in [("h2c", "h2c"), ("two", "websocket, h2c"), ("tls", "TLS/1.0")] {
        for first in [None, Some("localhost")] {
            let mut connection = RawConnection::connect(server.port).await.after(first).await;
            connection.send(format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
                instance.host
            ))
            .await;
            assert_ne!(connection.read_head().await.status, 101, "{name}");
        }
    }
    let seen = get(server.port, &instance.host, "/seen").await.text().to_ascii_lowercase();
    assert!(!seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn a_handshake_for_an_unknown_or_expired_host_gets_an_error() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "1s")]).await;
    let instance = server.acquire().await;
    let unknown = format!("default-aaaaaaaaaaaaaaaa.localhost:{}", server.port);
    let mut connection = RawConnection::connect(server.port).await;
    assert_eq!(handshake(&mut connection, &unknown, "/live", "").await.status, 404);
    crate::support::harness::eventually("the instance expires", async || {
        (get(server.port, &instance.host, "/").await.status == 410).then_some(())
    })
    .await;
    let mut connection = RawConnection::connect(server.port).await;
    let head = handshake(&mut connection, &instance.host, "/live", "Accept: application/json\r\n").await;
    assert_eq!(head.status, 410);
    let answer = connection.read_body(head).await;
    assert_eq!(answer.json()["code"], "EXPIRED");
    connection.assert_closed().await;
}

#[tokio::test]
async fn a_handshake_that_the_app_fails_gets_an_error() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for (path, status) in [("/ws-silent", 504), ("/reset", 502), ("/junk", 502)] {
        let mut connection = RawConnection::connect(server.port).await;
        let head = handshake(&mut connection, &instance.host, path, "").await;
        assert_eq!(head.status, status, "{path}");
    }
    assert_eq!(get(server.port, &instance.host, "/stop-listening").await.status, 200);
    let mut connection = RawConnection::connect(server.port).await;
    assert_eq!(handshake(&mut connection, &instance.host, "/ws", "").await.status, 502);
}

#[tokio::test]
async fn a_tunnel_ends_when_its_instance_is_released() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    receive(&mut socket, "hello").await;
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    wait_for_close(&mut socket).await;
}

#[tokio::test]
async fn a_tunnel_ends_at_the_deadline_and_not_before() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "2s")]).await;
    let start = Instant::now();
    let instance = server.acquire().await;
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    receive(&mut socket, "hello").await;
    wait_for_close(&mut socket).await;
    let lived = start.elapsed();
    assert!(lived >= Duration::from_millis(1_900) && lived < Duration::from_secs(4), "{lived:?}");
}

#[tokio::test]
async fn a_tunnel_outlives_the_first_deadline_after_an_extension() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "2s")]).await;
    let instance = server.acquire().await;
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    receive(&mut socket, "hello").await;
    let extended =
        server.call("POST", &format!("/api/v1/demo/{}/extend", instance.id), r#"{"minutes":1}"#).await;
    assert_eq!(extended.status, 200);
    // A socket would end at the first deadline now.
    assert!(timeout(Duration::from_millis(2_500), wait_for_close(&mut socket)).await.is_err());
    echo(&mut socket, "still here").await;
}

#[tokio::test]
async fn a_tunnel_ends_when_the_server_stops() {
    let mut server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
    receive(&mut socket, "hello").await;
    let start = Instant::now();
    server.signal("TERM");
    wait_for_close(&mut socket).await;
    assert_eq!(server.wait_for_exit().await, Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_websocket_over_http2_is_not_offered() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let send = h2c(server.port).await;
    assert!(!send.is_extended_connect_protocol_enabled());
    let request = http::Request::connect(&instance.host).body(()).unwrap();
    let answer = h2_request(&send, request).await;
    assert!(answer.as_ref().is_ok_and(|answer| answer.status >= 400) || answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn untrusted_headers_of_a_handshake_are_replaced_as_in_any_request() {
    let server = Server::with_fake_upstream(&[("TRUSTED_PROXIES", "192.0.2.1")]).await;
    let instance = server.acquire().await;
    let headers = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-API-Key: secret\r\n\
                  X-Demo-Expires-At: 2099-01-01T00:00:00Z\r\nProxy-Authorization: Basic secret\r\nCookie: a=b\r\n\
                  Sec-WebSocket-Protocol: chat\r\nX-Request-ID: my-id\r\n";
    let mut connection = RawConnection::connect(server.port).await;
    let head = handshake(&mut connection, &instance.host, "/ws?a=1", headers).await;
    assert_eq!((head.status, head.headers["x-request-id"].to_str().unwrap()), (101, "my-id"));
    let seen = get(server.port, &instance.host, "/seen").await.text().to_ascii_lowercase();
    let handshake = seen.split("\r\n\r\n").find(|head| head.starts_with("get /ws?a=1 http/1.1\r\n")).unwrap();
    for claim in ["6.6.6.6", "secret", "2099", "\r\nx-forwarded-proto: https"] {
        assert!(!handshake.contains(claim), "{claim}: {handshake}");
    }
    for field in [
        format!("host: {}", instance.host),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        format!("x-forwarded-host: {}", instance.host),
        "cookie: a=b".to_owned(),
        "sec-websocket-protocol: chat".to_owned(),
        "x-request-id: my-id".to_owned(),
        "connection: upgrade".to_owned(),
        "upgrade: websocket".to_owned(),
    ] {
        assert_eq!(handshake.matches(&format!("\r\n{field}")).count(), 1, "{field}: {handshake}");
    }
}
