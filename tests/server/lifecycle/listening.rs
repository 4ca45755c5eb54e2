//! Apps that listen on `::1` only, or on another port than the one they were given.

use std::net::TcpListener;

use crate::support::harness::websocket::{open, receive};
use crate::support::harness::{RawConnection, Server, eventually, get};

/// Returns a template whose app is the sample app, after these shell commands.
fn template(name: &str, before: &str, more: &str) -> String {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    format!(
        "[templates.{name}]\ncommand = [\"sh\", \"-c\", \"{before}; exec {program} sample-app\"]\n\
         pool = {{ target = 1, min = 0, max = 2 }}\n{more}\n"
    )
}

#[tokio::test]
async fn an_app_that_listens_on_the_ipv6_loopback_only_serves_pages_and_websockets() {
    if TcpListener::bind("[::1]:0").is_err() {
        return crate::support::skip::skip("this host has no IPv6 loopback");
    }
    let file = template("six", "HOST=::1; export HOST", "warm_up = [\"/\"]") + &template("four", "true", "");
    let server = Server::with_file(&[], &file).await;
    for name in ["six", "four"] {
        let instance = server.acquire_of(name).await;
        for _ in 0..3 {
            assert_eq!(get(server.port, &instance.host, "/").await.status, 200, "{name}");
        }
        let mut socket = open(RawConnection::connect(server.port).await, &instance).await;
        assert_eq!(receive(&mut socket, "hello").await["id"], instance.id.as_str());
    }
}

#[tokio::test]
async fn an_app_that_listens_elsewhere_is_reported_with_the_place() {
    // No other program takes this port of all addresses while a socket listens on it.
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let other = template("other", &format!("PORT={port}; export PORT"), "ready = { timeout = \"2s\" }");
    let file = other + "[templates.silent]\ncommand = [\"sleep\", \"1000\"]\nready = { timeout = \"1s\" }\n";
    let server = Server::with_file(&[], &file).await;
    let problem = async |template: &str, expected: &str| {
        eventually("its problem is reported", async || {
            let path = format!("/api/v1/pool/stats?template={template}");
            let stats = server.call("GET", &path, "").await.json();
            let problem = stats["templates"][0]["problem"].as_str()?.to_owned();
            assert!(problem.contains("was not ready within"), "{problem}");
            assert!(problem.contains(expected), "{problem}");
            Some(problem)
        })
        .await
    };
    let shown = problem("other", &format!("it listens on 127.0.0.1:{port}, not on ")).await;
    assert!(shown.ends_with("have it listen on the port in PORT"), "{shown}");
    problem("silent", "it listens on no port").await;
}
