//! One port over TLS: what is agreed on, and a certificate that changes while the server runs.

use crate::support::harness::{Certificate, Server, Wire, eventually, h2_get, h2_over, raw};

fn with_alpn(stream: &tokio_rustls::client::TlsStream<tokio::net::TcpStream>) -> Option<&str> {
    stream.get_ref().1.alpn_protocol().map(|name| std::str::from_utf8(name).unwrap())
}

#[tokio::test]
async fn the_client_chooses_the_protocol_and_both_carry_api_and_instances() {
    let (server, certificate) = Server::encrypted().await;
    let demo = certificate.acquire(server.port).await;
    assert!(demo.url.starts_with("https://"), "{}", demo.url);
    for (offer, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = certificate.connect(server.port, offer).await.unwrap();
        assert_eq!(with_alpn(&stream), agreed);
        let answers = if agreed == Some("h2") {
            let send = h2_over(stream).await;
            [h2_get(&send, "localhost", "/health").await, h2_get(&send, &demo.host, "/whoami").await]
        } else {
            let mut wire = Wire::over(stream);
            [wire.get("localhost", "/health").await, wire.get(&demo.host, "/whoami").await]
        };
        assert_eq!(answers[0].json()["status"], "ok");
        let seen = answers[1].json();
        assert_eq!(seen["id"], demo.id.as_str());
        assert_eq!(seen["headers"]["x-forwarded-proto"][0], "https");
    }
    // No protocol in common.
    assert!(certificate.connect(server.port, &["spdy/3"]).await.is_err());
}

#[tokio::test]
async fn a_client_that_speaks_in_the_clear_to_the_encrypted_port_gets_no_answer_and_does_no_harm() {
    let (server, certificate) = Server::encrypted().await;
    let answer = raw(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    // HTTP/2 with prior knowledge is for the clear; over TLS it is agreed on or not spoken.
    let mut wire = Wire::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let _ = wire.rest().await;
    let mut wire = Wire::over(certificate.connect(server.port, &[]).await.unwrap());
    assert_eq!(wire.get("localhost", "/health").await.status, 200);
}

#[tokio::test]
async fn a_websocket_runs_over_tls() {
    let (server, certificate) = Server::encrypted().await;
    let demo = certificate.acquire(server.port).await;
    let wire = Wire::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
    let mut socket = crate::support::harness::websocket::open(wire, &demo).await;
    crate::support::harness::websocket::hear(&mut socket, "hello").await;
    crate::support::harness::websocket::echo(&mut socket, &"x".repeat(10_000)).await;
}

#[tokio::test]
async fn smuggling_is_refused_over_tls_too() {
    let (server, certificate) = Server::encrypted().await;
    let demo = certificate.acquire(server.port).await;
    for host in ["localhost", &demo.host] {
        let mut wire = Wire::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
        wire.send(format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ))
        .await;
        assert_eq!(wire.answer().await.status, 400);
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_and_a_bad_one_is_not() {
    let (server, first) = Server::encrypted().await;
    let (cert, key) = (server.folder.join("cert.pem"), server.folder.join("key.pem"));
    let trusts = async |certificate: &Certificate| certificate.connect(server.port, &[]).await.is_ok();
    let mut old = Wire::over(first.connect(server.port, &[]).await.unwrap());
    assert_eq!(old.get("localhost", "/health").await.status, 200);

    let second = Certificate::new();
    second.write(&cert, &key);
    eventually("the new certificate is used", async || trusts(&second).await.then_some(())).await;
    assert!(!trusts(&first).await);
    assert_eq!(old.get("localhost", "/health").await.status, 200, "a connection outlives its certificate");

    std::fs::write(&cert, "no certificate").unwrap();
    eventually("the bad file is told of", async || {
        server.log().iter().any(|line| line.contains("cannot be used")).then_some(())
    })
    .await;
    assert!(trusts(&second).await);

    // A key that does not fit, then the pair that does.
    let third = Certificate::new();
    third.write(&cert, &server.folder.join("other.pem"));
    eventually("the odd pair is told of", async || {
        (server.log().iter().filter(|line| line.contains("cannot be used")).count() >= 2).then_some(())
    })
    .await;
    assert!(trusts(&second).await);
    third.write(&cert, &key);
    eventually("the mended pair is used", async || trusts(&third).await.then_some(())).await;
    assert_eq!(old.get("localhost", "/health").await.status, 200);
}
