//! The secret that servers share, chosen by an operator.

use ring::hmac;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::harness::{AcquiredInstance, RawConnection, Server, eventually};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// Returns the random text `KEY` of an instance as a visitor could compute it from the secret if the secret itself
/// were the key.
fn text_from(secret: &str, id: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{id} KEY 0").as_bytes());
    tag.as_ref()[..16].iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

#[tokio::test]
async fn visitors_cannot_find_a_weak_secret_by_cheap_guesses_at_their_own_password() {
    const WEAK: &str = "our-company-2026";
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let file = format!(
        "[templates.shop]\ncommand = [\"{program}\", \"sample-app\"]\n[templates.shop.hooks]\nrandom = {{ KEY = 16 }}\n\
         credentials = \"{{KEY}}\"\n"
    );
    let address = valkey.host_and_port();
    let with = async |target| {
        let settings = [
            ("VALKEY_ADDR", &*address),
            ("NODE_SECRET", WEAK),
            ("POOL_TARGET_SIZE", target),
            ("POOL_MIN_SIZE", "0"),
            ("TRUSTED_PROXIES", "127.0.0.2"),
        ];
        Server::with_file(&settings, &file).await
    };
    let (here, there) = (with("0").await, with("1").await);
    eventually("an instance is ready", async || (here.stats().await["ready"] == 1).then_some(())).await;
    let acquired = here.call("POST", "/api/v1/demo/acquire", "").await.json();
    let (id, credentials) = (acquired["id"].as_str().unwrap(), acquired["credentials"].as_str().unwrap());
    assert_ne!(credentials, text_from(WEAK, id));
    // Both servers stretch the secret to the same key: each computes the same text, and believes the hops of the other.
    let path = format!("/api/v1/demo/{id}");
    assert_eq!(there.call("GET", &path, "").await.json()["credentials"], credentials);
    let host = AcquiredInstance::from_json(&acquired).host;
    let mut from_proxy = RawConnection::over(connect_from("127.0.0.2:0", here.port).await);
    from_proxy
        .send(format!("GET /whoami HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"))
        .await;
    let seen = from_proxy.read_answer().await.json();
    assert_eq!(seen["headers"]["x-forwarded-for"], json!(["203.0.113.9, 127.0.0.2"]), "{seen}");
    for server in [&here, &there] {
        let log = server.log().join("\n");
        assert!(log.contains("openssl rand -base64 32") && !log.contains(WEAK), "{log}");
    }
}

async fn connect_from(own: &str, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(own.parse().unwrap()).unwrap();
    socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
}
