//! TLS on the one port: protocol negotiation, and a certificate that changes while the server runs.

use crate::support::harness::{Certificate, RawConnection, Server, eventually, h2_get, h2_over, send_raw};

fn with_alpn(stream: &tokio_rustls::client::TlsStream<tokio::net::TcpStream>) -> Option<&str> {
    stream.get_ref().1.alpn_protocol().map(|name| std::str::from_utf8(name).unwrap())
}

#[tokio::test]
async fn the_client_chooses_the_protocol_and_both_carry_api_and_instances() {
    let (server, certificate) = Server::with_tls().await;
    let instance = certificate.acquire(server.port).await;
    assert!(instance.url.starts_with("https://"), "{}", instance.url);
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
            [h2_get(&send, "localhost", "/health").await, h2_get(&send, &instance.host, "/whoami").await]
        } else {
            let mut connection = RawConnection::over(stream);
            [connection.get("localhost", "/health").await, connection.get(&instance.host, "/whoami").await]
        };
        assert_eq!(answers[0].json()["status"], "ok");
        let seen = answers[1].json();
        assert_eq!(seen["id"], instance.id.as_str());
        assert_eq!(seen["headers"]["x-forwarded-proto"][0], "https");
    }
    // No common protocol.
    assert!(certificate.connect(server.port, &["spdy/3"]).await.is_err());
}

#[tokio::test]
async fn a_cleartext_client_on_the_tls_port_gets_no_answer_and_does_no_harm() {
    let (server, certificate) = Server::with_tls().await;
    let answer = send_raw(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    // HTTP/2 with prior knowledge works only in the clear. Over TLS it is negotiated or refused.
    let mut connection = RawConnection::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let _ = connection.read_to_end().await;
    let mut connection = RawConnection::over(certificate.connect(server.port, &[]).await.unwrap());
    assert_eq!(connection.get("localhost", "/health").await.status, 200);
}

#[tokio::test]
async fn a_websocket_runs_over_tls() {
    let (server, certificate) = Server::with_tls().await;
    let instance = certificate.acquire(server.port).await;
    let connection = RawConnection::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
    let mut socket = crate::support::harness::websocket::open(connection, &instance).await;
    crate::support::harness::websocket::receive(&mut socket, "hello").await;
    crate::support::harness::websocket::echo(&mut socket, &"x".repeat(10_000)).await;
}

#[tokio::test]
async fn smuggling_is_refused_over_tls_too() {
    let (server, certificate) = Server::with_tls().await;
    let instance = certificate.acquire(server.port).await;
    for host in ["localhost", &instance.host] {
        let mut connection =
            RawConnection::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
        connection.send(format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ))
        .await;
        assert_eq!(connection.read_answer().await.status, 400);
        connection.assert_closed().await;
    }
}

#[tokio::test]
async fn a_new_certificate_is_loaded_and_an_invalid_one_is_not() {
    let (server, first) = Server::with_tls().await;
    let (cert, key) = (server.folder.join("cert.pem"), server.folder.join("key.pem"));
    let trusts = async |certificate: &Certificate| certificate.connect(server.port, &[]).await.is_ok();
    let mut old = RawConnection::over(first.connect(server.port, &[]).await.unwrap());
    assert_eq!(old.get("localhost", "/health").await.status, 200);

    let second = Certificate::new();
    second.write(&cert, &key);
    eventually("the new certificate is used", async || trusts(&second).await.then_some(())).await;
    assert!(!trusts(&first).await);
    assert_eq!(
        old.get("localhost", "/health").await.status,
        200,
        "an open connection survives the change of the certificate"
    );

    std::fs::write(&cert, "no certificate").unwrap();
    eventually("the invalid file is logged", async || {
        server.log().iter().any(|line| line.contains("failed to reload certificate")).then_some(())
    })
    .await;
    assert!(trusts(&second).await);

    // First a key that does not match, then the matching pair.
    let third = Certificate::new();
    third.write(&cert, &server.folder.join("other.pem"));
    eventually("the mismatched pair is logged", async || {
        (server.log().iter().filter(|line| line.contains("failed to reload certificate")).count() >= 2)
            .then_some(())
    })
    .await;
    assert!(trusts(&second).await);
    third.write(&cert, &key);
    eventually("the corrected pair is used", async || trusts(&third).await.then_some(())).await;
    assert_eq!(old.get("localhost", "/health").await.status, 200);
}
