//! WebSockets: opened, carried in both directions, declined, and cut when their time is over.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::harness::websocket::{echo, ended, handshake, hear, open};
use crate::support::harness::{PATIENCE, Server, Wire, get, h2_ask, h2c, request};

#[tokio::test]
async fn a_websocket_carries_small_and_large_messages_both_ways() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    assert_eq!(hear(&mut socket, "hello").await["id"], demo.id.as_str());
    for n in 0..100 {
        echo(&mut socket, &n.to_string()).await;
    }
    echo(&mut socket, &"ä".repeat(7_000)).await;
    // The app's own news come in between.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let signed = request(server.port, "POST", &demo.host, "/entries", &form, "name=Ada&text=Hello").await;
    assert_eq!(signed.status, 303);
    assert_eq!(hear(&mut socket, "entry").await["text"], "Hello");
}

#[tokio::test]
async fn a_close_reaches_the_other_end_with_its_reason() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    // The app closes.
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    let close = async {
        loop {
            if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
                return frame.unwrap();
            }
        }
    };
    let frame = timeout(PATIENCE, close).await.unwrap();
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Unsupported, "text only"));
    ended(&mut socket).await;

    // The visitor closes; the app answers, and counts one visitor less.
    let mut watcher = open(Wire::connect(server.port).await, &demo).await;
    hear(&mut watcher, "hello").await;
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    assert_eq!(hear(&mut watcher, "visitors").await["n"], 2);
    socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).await.unwrap();
    ended(&mut socket).await;
    assert_eq!(hear(&mut watcher, "visitors").await["n"], 1);

    // The visitor is gone without a word.
    let socket = open(Wire::connect(server.port).await, &demo).await;
    assert_eq!(hear(&mut watcher, "visitors").await["n"], 2);
    drop(socket);
    assert_eq!(hear(&mut watcher, "visitors").await["n"], 1);
}

#[tokio::test]
async fn bytes_sent_together_with_the_handshake_or_its_answer_are_not_lost() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for _ in 0..50 {
        let mut wire = Wire::connect(server.port).await;
        wire.send(format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly",
            demo.host
        ))
        .await;
        let head = wire.head().await;
        assert_eq!(head.status, 101);
        assert_eq!(head.headers["set-cookie"], "a=1");
        assert!(head.headers.contains_key("x-request-id"));
        // It is no HTTP any more: nothing of this is looked at.
        let odd = "GET / HTTP/9\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        wire.send(odd).await;
        let all = format!("firstearly{odd}");
        assert_eq!(String::from_utf8_lossy(&wire.bytes(all.len()).await), all);
        // An end in one direction passes on, and the other direction ends after it.
        wire.finish().await;
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_large_stream_passes_through_a_tunnel_unharmed() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    let mut wire = Wire::connect(server.port).await;
    assert_eq!(handshake(&mut wire, &demo.host, "/ws", "").await.status, 101);
    assert_eq!(wire.bytes(5).await, b"first");
    let (stream, read) = wire.into_parts();
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
    let ((), got) = timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
    assert!(got == expected, "{} of {} bytes, or others", got.len(), expected.len());
}

#[tokio::test]
async fn an_upgrade_that_the_app_declines_is_answered_with_its_answer() {
    let server = Server::with_stand_in(&[]).await;
    let (odd, book) = (server.acquire().await, server.acquire_of("book").await);
    // Not a handshake at all.
    let answer = get(server.port, &book.host, "/live").await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, "13"));
    for before in [&[][..], &["localhost"], &[&odd.host]] {
        for (host, path, status) in
            [(&book.host, "/", 200), (&book.host, "/missing", 404), (&odd.host, "/ws-declined", 403)]
        {
            let mut wire = Wire::connect(server.port).await;
            for host in before {
                assert_eq!(wire.get(host, "/health").await.status, 200);
            }
            let head = handshake(&mut wire, host, path, "").await;
            assert_eq!(head.status, status, "{path}");
            assert!(!head.headers.contains_key("upgrade"), "{head:?}");
            let answer = wire.body_of(head).await;
            match path {
                "/ws-declined" => {
                    assert_eq!(answer.text(), "declined");
                    assert_eq!(answer.header("set-cookie"), "a=1");
                }
                "/" => assert!(answer.text().contains(&book.id)),
                _ => {}
            }
            wire.closed().await;
        }
    }
    // A handshake for the API is an ordinary request.
    let mut wire = Wire::connect(server.port).await;
    assert_eq!(handshake(&mut wire, "localhost", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_protocol_other_than_websocket_is_not_switched_to() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for (name, upgrade) in [("h2c", "h2c"), ("two", "websocket, h2c"), ("tls", "TLS/1.0")] {
        for first in [None, Some("localhost")] {
            let mut wire = Wire::connect(server.port).await;
            if let Some(first) = first {
                assert_eq!(wire.get(first, "/health").await.status, 200);
            }
            wire.send(format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
                demo.host
            ))
            .await;
            assert_ne!(wire.head().await.status, 101, "{name}");
        }
    }
    let seen = get(server.port, &demo.host, "/seen").await.text().to_ascii_lowercase();
    assert!(!seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn a_handshake_with_a_host_that_leads_nowhere_is_told_why() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "1s")]).await;
    let demo = server.acquire().await;
    let nobody = format!("default-aaaaaaaaaaaaaaaa.localhost:{}", server.port);
    let mut wire = Wire::connect(server.port).await;
    assert_eq!(handshake(&mut wire, &nobody, "/live", "").await.status, 404);
    crate::support::harness::eventually("the instance expires", async || {
        (get(server.port, &demo.host, "/").await.status == 410).then_some(())
    })
    .await;
    let mut wire = Wire::connect(server.port).await;
    let head = handshake(&mut wire, &demo.host, "/live", "Accept: application/json\r\n").await;
    assert_eq!(head.status, 410);
    let answer = wire.body_of(head).await;
    assert_eq!(answer.json()["code"], "EXPIRED");
    wire.closed().await;
}

#[tokio::test]
async fn an_app_that_refuses_breaks_off_or_never_answers_a_handshake_is_told_of() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for (path, status) in [("/ws-silent", 504), ("/reset", 502), ("/junk", 502)] {
        let mut wire = Wire::connect(server.port).await;
        let head = handshake(&mut wire, &demo.host, path, "").await;
        assert_eq!(head.status, status, "{path}");
    }
    assert_eq!(get(server.port, &demo.host, "/deaf").await.status, 200);
    let mut wire = Wire::connect(server.port).await;
    assert_eq!(handshake(&mut wire, &demo.host, "/ws", "").await.status, 502);
}

#[tokio::test]
async fn a_tunnel_ends_when_its_instance_is_released() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    hear(&mut socket, "hello").await;
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    ended(&mut socket).await;
}

#[tokio::test]
async fn a_tunnel_ends_when_its_time_is_over_and_not_before() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "2s")]).await;
    let start = Instant::now();
    let demo = server.acquire().await;
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    hear(&mut socket, "hello").await;
    ended(&mut socket).await;
    let lived = start.elapsed();
    assert!(lived >= Duration::from_millis(1_900) && lived < Duration::from_secs(4), "{lived:?}");
}

#[tokio::test]
async fn a_tunnel_lives_on_when_its_time_is_extended() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "2s")]).await;
    let demo = server.acquire().await;
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    hear(&mut socket, "hello").await;
    let extended = server.call("POST", &format!("/api/v1/demo/{}/extend", demo.id), r#"{"minutes":1}"#).await;
    assert_eq!(extended.status, 200);
    // Past the first deadline: a silent socket would end now.
    assert!(timeout(Duration::from_millis(2_500), ended(&mut socket)).await.is_err());
    echo(&mut socket, "still here").await;
}

#[tokio::test]
async fn a_tunnel_ends_when_the_server_stops() {
    let mut server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let mut socket = open(Wire::connect(server.port).await, &demo).await;
    hear(&mut socket, "hello").await;
    let start = Instant::now();
    server.signal("TERM");
    ended(&mut socket).await;
    assert_eq!(server.ended().await, Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_websocket_over_http2_is_not_offered() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let send = h2c(server.port).await;
    assert!(!send.is_extended_connect_protocol_enabled());
    let request = http::Request::connect(&demo.host).body(()).unwrap();
    let answer = h2_ask(&send, request).await;
    assert!(answer.as_ref().is_ok_and(|answer| answer.status >= 400) || answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_handshake_is_cleaned_of_claims_like_any_request() {
    let server = Server::with_stand_in(&[("TRUSTED_PROXIES", "192.0.2.1")]).await;
    let demo = server.acquire().await;
    let claims = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-API-Key: secret\r\n\
                  X-Demo-Expires-At: 2099-01-01T00:00:00Z\r\nProxy-Authorization: Basic secret\r\nCookie: a=b\r\n\
                  Sec-WebSocket-Protocol: chat\r\nX-Request-ID: my-id\r\n";
    let mut wire = Wire::connect(server.port).await;
    let head = handshake(&mut wire, &demo.host, "/ws?a=1", claims).await;
    assert_eq!((head.status, head.headers["x-request-id"].to_str().unwrap()), (101, "my-id"));
    let seen = get(server.port, &demo.host, "/seen").await.text().to_ascii_lowercase();
    let handshake = seen.split("\r\n\r\n").find(|head| head.starts_with("get /ws?a=1 http/1.1\r\n")).unwrap();
    for claim in ["6.6.6.6", "secret", "2099", "\r\nx-forwarded-proto: https"] {
        assert!(!handshake.contains(claim), "{claim}: {handshake}");
    }
    for field in [
        format!("host: {}", demo.host),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        format!("x-forwarded-host: {}", demo.host),
        "cookie: a=b".to_owned(),
        "sec-websocket-protocol: chat".to_owned(),
        "x-request-id: my-id".to_owned(),
        "connection: upgrade".to_owned(),
        "upgrade: websocket".to_owned(),
    ] {
        assert_eq!(handshake.matches(&format!("\r\n{field}")).count(), 1, "{field}: {handshake}");
    }
}
