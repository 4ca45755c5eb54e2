//! How many connections one client may hold, and that a server runs out of neither connections nor descriptors for the
//! others.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::support::harness::{AcquiredInstance, RawConnection, Server, eventually};

/// Clients that are no trusted proxies, as if they were on other hosts.
const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
const GOOD: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 2);
/// Without it, this host is trusted, and the clients of the tests would count as a proxy.
const NO_LOCAL_PROXY: (&str, &str) = ("TRUSTED_PROXIES", "127.9.9.9");

const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The longest time in which a good client must be answered beside an attack. It includes a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Opens a connection that is served. Returns `None` if it is refused.
async fn served_connection(port: u16, source: Ipv4Addr) -> Option<RawConnection> {
    let mut connection = RawConnection::connect_from(source, port).await;
    connection.try_send(GET_HEALTH).await.ok()?;
    let head = connection.try_read_head().await?;
    let answer = connection.read_body(head).await;
    (answer.status == 200).then_some(connection)
}

/// Opens connections from one address until one is refused, and holds them.
async fn hold_all(port: u16, source: Ipv4Addr) -> Vec<RawConnection> {
    let mut held = Vec::new();
    while let Some(connection) = served_connection(port, source).await {
        held.push(connection);
        assert!(held.len() < 1000, "no connection was refused");
    }
    held
}

/// Acquires an instance on a connection that is open already.
async fn acquire_over(connection: &mut RawConnection) -> AcquiredInstance {
    connection
        .send("POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await;
    let answer = connection.read_answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    AcquiredInstance::from_json(&answer.json())
}

/// Visits `/health`, the front page and an instance that it acquires, each on a connection of its own.
async fn visit_everything(port: u16, source: Ipv4Addr) {
    let visit = async {
        for path in ["/health", "/"] {
            let mut connection = RawConnection::connect_from(source, port).await;
            let answer = connection.get("localhost", path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
        let instance = acquire_over(&mut RawConnection::connect_from(source, port).await).await;
        let answer = RawConnection::connect_from(source, port).await.get(&instance.host, "/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    timeout(AT_ONCE, visit).await.expect("a good client is served at once");
}

#[tokio::test]
async fn a_client_that_holds_all_connections_that_it_gets_leaves_those_of_others() {
    let server = Server::start(&[NO_LOCAL_PROXY, ("MAX_CONNECTIONS", "300")]).await;
    let mut held = hold_all(server.port, HOSTILE).await;
    assert_eq!(held.len(), 256);
    let mut refused = RawConnection::connect_from(HOSTILE, server.port).await;
    let answer = refused.read_answer().await;
    answer.assert_error(503, "TOO_MANY_CONNECTIONS");
    assert_eq!(answer.header("connection"), "close");
    refused.assert_closed().await;
    visit_everything(server.port, GOOD).await;
    let metrics = server.call("GET", "/metrics", "").await.text();
    let counted =
        metrics.lines().find_map(|l| l.strip_prefix("demo_connections_refused_total{reason=\"client\"} "));
    // The last one of `hold_all`, and the one above.
    assert_eq!(counted, Some("2"), "{metrics}");
    // Its open connections continue, and each that it closes may be replaced.
    assert_eq!(held[0].get("localhost", "/health").await.status, 200);
    held.pop();
    eventually("a slot of the client is free", async || served_connection(server.port, HOSTILE).await).await;
}

#[tokio::test]
async fn a_trusted_proxy_may_hold_all_connections() {
    let variables =
        [("TRUSTED_PROXIES", "127.66.0.1"), ("MAX_CONNECTIONS", "60"), ("MAX_CONNECTIONS_PER_CLIENT", "4")];
    let server = Server::start(&variables).await;
    let mut held = Vec::new();
    eventually("the proxy holds all connections", async || {
        held.extend(hold_all(server.port, HOSTILE).await);
        (held.len() == 60).then_some(())
    })
    .await;
    held.truncate(30);
    let mut of_client = Vec::new();
    eventually("the client holds four connections", async || {
        of_client.extend(hold_all(server.port, GOOD).await);
        (of_client.len() >= 4).then_some(())
    })
    .await;
    assert_eq!((of_client.len(), hold_all(server.port, GOOD).await.len()), (4, 0));
}

#[tokio::test]
async fn a_tls_connection_beyond_the_maximum_ends_before_its_handshake() {
    let variables = [NO_LOCAL_PROXY, ("MAX_CONNECTIONS_PER_CLIENT", "2")];
    let (server, _certificate) = Server::with_tls_and(&variables).await;
    // They stall in the handshake, where they count already.
    let _held = [
        RawConnection::connect_from(HOSTILE, server.port).await,
        RawConnection::connect_from(HOSTILE, server.port).await,
    ];
    let mut refused = RawConnection::connect_from(HOSTILE, server.port).await;
    assert!(refused.try_read_head().await.is_none());
    // Another client gets its handshake: the server waits for its first byte.
    let mut other = RawConnection::connect_from(GOOD, server.port).await;
    assert!(timeout(Duration::from_millis(500), other.try_read_head()).await.is_err());
}

#[tokio::test]
async fn a_tls_client_that_begins_nothing_loses_its_connection_after_ten_seconds() {
    let (server, certificate) = Server::with_tls_and(&[]).await;
    let no_handshake = RawConnection::connect(server.port).await;
    let no_preface = RawConnection::over(certificate.connect(server.port, &["h2"]).await.unwrap());
    let mut half_a_preface = RawConnection::over(certificate.connect(server.port, &["h2"]).await.unwrap());
    half_a_preface.send("PRI * HTTP/2.0").await;
    let begun = Instant::now();
    let ends = [no_handshake, no_preface, half_a_preface].map(async |mut connection| {
        // HTTP/2 may have begun with the server's settings.
        connection.read_to_end().await;
        begun.elapsed()
    });
    for (n, took) in join_all(ends).await.into_iter().enumerate() {
        assert!(took > Duration::from_secs(8) && took < Duration::from_secs(14), "{n}: {took:?}");
    }
}

#[tokio::test]
async fn an_operator_on_the_host_is_answered_while_all_connections_are_held() {
    let server = Server::start(&[NO_LOCAL_PROXY, ("MAX_CONNECTIONS", "40")]).await;
    let mut held = Vec::new();
    eventually("all connections are held", async || {
        held.extend(hold_all(server.port, HOSTILE).await);
        (held.len() == 40).then_some(())
    })
    .await;
    assert!(served_connection(server.port, GOOD).await.is_none());
    for path in ["/health", "/metrics"] {
        assert_eq!(server.call("GET", path, "").await.status, 200, "{path}");
    }
    drop(held);
    eventually("the slots are free", async || served_connection(server.port, GOOD).await).await;
}

#[tokio::test]
async fn clients_of_many_addresses_cannot_use_up_the_descriptors() {
    let templates = "[templates.default]\ncommand = [\"try-it-now\", \"sample-app\"]\n";
    let variables = [NO_LOCAL_PROXY, ("POOL_MAX_SIZE", "4")];
    let server = Server::with_open_files((64, 256), &variables, templates).await.full().await;
    let log = server.log_until(|line| line.contains("does not fit into the limit of open files")).await;
    let warning = log.iter().find(|line| line.contains("MAX_CONNECTIONS does not fit")).unwrap();
    let warning: serde_json::Value = serde_json::from_str(warning).unwrap();
    let used = warning["used"].as_u64().unwrap() as usize;
    assert!((16..=100).contains(&used), "{warning}");

    // A visitor came before the attack.
    let mut visitor = RawConnection::connect_from(GOOD, server.port).await;
    let instance = acquire_over(&mut visitor).await;
    for _ in 0..2 {
        // More connections than descriptors: idle ones, and ones that keep a connection to the app busy.
        let mut attackers = Vec::new();
        for n in 0..320_usize {
            let source = Ipv4Addr::new(127, 66, 1, (n % 8) as u8);
            let mut connection = RawConnection::connect_from(source, server.port).await;
            if n % 2 == 0 {
                let events = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
                let _ = connection.try_send(events).await;
            }
            attackers.push(connection);
        }
        let during = async {
            assert_eq!(visitor.get("localhost", "/health").await.status, 200);
            assert_eq!(visitor.get(&instance.host, "/").await.status, 200);
            acquire_over(&mut visitor).await;
            for path in ["/health", "/metrics"] {
                assert_eq!(server.call("GET", path, "").await.status, 200, "{path}");
            }
        };
        timeout(AT_ONCE, during).await.expect("the visitor and the operator are served at once");
        assert!(served_connection(server.port, HOSTILE).await.is_none());
        drop(attackers);
        // Every slot returns.
        eventually("all slots are free", async || {
            let mut held = Vec::new();
            // The visitor has one.
            for n in 1..used {
                let source = Ipv4Addr::new(127, 66, 2, (n % 8) as u8);
                held.push(served_connection(server.port, source).await?);
            }
            Some(())
        })
        .await;
    }
    assert!(!server.log().iter().any(|line| line.contains("failed to accept connection")));
}

#[tokio::test]
async fn the_server_raises_its_limit_of_open_files_and_its_apps_keep_the_original_one() {
    let templates = r#"
        [templates.default]
        command = ["sh", "-c", "echo soft $(ulimit -Sn) hard $(ulimit -Hn); exec try-it-now sample-app"]

        [templates.own]
        command = ["sh", "-c", "echo soft $(ulimit -Sn) hard $(ulimit -Hn); exec try-it-now sample-app"]
        limits = { open_files = 333 }
        "#;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_try-it-now"));
    let templates = templates.replace("exec try-it-now", &format!("exec {}", program.display()));
    let server = Server::with_open_files((300, 700), &[], &templates).await.full().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let own = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(own.split_whitespace().collect::<Vec<_>>(), ["700", "700", "files"]);
    for (template, expected) in [("default", "soft 300 hard 700"), ("own", "soft 333 hard 333")] {
        let answer = server
            .call("POST", "/api/v1/demo/acquire", &format!(r#"{{"template":"{template}"}}"#))
            .await
            .json();
        let path = format!("/api/v1/demo/{}/logs", answer["id"].as_str().unwrap());
        let token = answer["token"].as_str().unwrap();
        let logs = server.request("GET", &path, &[("x-instance-token", token)], "").await;
        assert!(logs.text().contains(expected), "{template}: {}", logs.text());
    }
}
