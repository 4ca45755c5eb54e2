//! How many requests may be in flight of one client and for one instance, and what an unread answer costs.

use std::time::Duration;

use futures_util::future::join_all;
use http::Request;

use crate::support::harness::websocket::handshake;
use crate::support::harness::{RawConnection, Server, eventually, get, h2_get, h2_request, h2c, request};

const ATTACKER: (&str, &str) = ("x-forwarded-for", "203.0.113.9");
const VISITOR: (&str, &str) = ("x-forwarded-for", "198.51.100.7");

#[tokio::test]
async fn streams_to_a_silent_instance_are_refused_beyond_its_limit_and_leave_the_others_alone() {
    let server = Server::with_fake_upstream(&[("MAX_REQUESTS_PER_INSTANCE", "20")]).await;
    let (silent, good) = (server.acquire().await, server.acquire_of("book").await);
    for _ in 0..2 {
        let attack = async {
            let connections = join_all((0..3).map(|_| h2c(server.port))).await;
            let streams = connections.iter().flat_map(|send| {
                (0..20).map(|_| async { h2_get(send, &silent.host, "/silent").await.status })
            });
            join_all(streams).await
        };
        let visit = async {
            for path in ["/health", "/"] {
                assert_eq!(server.request("GET", path, &[VISITOR], "").await.status, 200, "{path}");
            }
            assert_eq!(request(server.port, "GET", &good.host, "/", &[VISITOR], "").await.status, 200);
            // It is the instance's own limit: a visitor of it waits too.
            let busy = eventually("the instance is busy", async || {
                let answer = get(server.port, &silent.host, "/").await;
                (answer.status == 503).then_some(answer)
            })
            .await;
            assert!(busy.text().contains("too much at once"), "{}", busy.text());
            assert_eq!(busy.header("retry-after"), "1");
            let json =
                request(server.port, "GET", &silent.host, "/", &[("accept", "application/json")], "").await;
            json.assert_error(503, "INSTANCE_BUSY");
        };
        let (statuses, ()) = tokio::join!(attack, visit);
        let refused = statuses.iter().filter(|status| **status == 503).count();
        assert!(refused >= 40, "{statuses:?}");
        assert!(statuses.iter().all(|status| [503, 504].contains(status)), "{statuses:?}");
        // Each permit is returned.
        eventually("the instance answers again", async || {
            (get(server.port, &silent.host, "/").await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_one_client_holds_open_is_bounded_and_given_back() {
    let server = Server::start(&[("MAX_REQUESTS_PER_CLIENT", "5")]).await;
    let instance = server.acquire().await;
    let send = h2c(server.port).await;
    let as_client = |client: (&str, &str), host: &str, path: &str| {
        Request::get(format!("http://{host}{path}")).header(client.0, client.1).body(()).unwrap()
    };
    for kind in ["event streams of the API", "event streams of the app", "WebSockets"] {
        let (mut sockets, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            if kind == "WebSockets" {
                let mut connection = RawConnection::connect(server.port).await;
                let field = format!("{}: {}\r\n", ATTACKER.0, ATTACKER.1);
                let head = handshake(&mut connection, &instance.host, "/live", &field).await;
                assert_eq!(head.status, 101);
                sockets.push(connection);
            } else {
                let (host, path) = if kind.ends_with("API") {
                    ("localhost", "/ready")
                } else {
                    (instance.host.as_str(), "/events")
                };
                let mut send = send.clone().ready().await.unwrap();
                let (answer, _) = send.send_request(as_client(ATTACKER, host, path), true).unwrap();
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), 200, "{kind}");
                streams.push(answer);
            }
        }
        for (host, path) in [("localhost", "/ready"), (instance.host.as_str(), "/")] {
            let refused =
                request(server.port, "GET", host, path, &[ATTACKER, ("accept", "application/json")], "")
                    .await;
            refused.assert_error(429, "TOO_MANY_REQUESTS");
            assert_eq!(refused.header("retry-after"), "1", "{kind}");
        }
        // The other endpoints of the API end by themselves, and other clients have permits of their own.
        assert_eq!(server.request("GET", "/health", &[ATTACKER], "").await.status, 200);
        for other in [VISITOR, ("x-forwarded-for", "127.0.0.1")] {
            let answer = request(server.port, "GET", &instance.host, "/", &[other], "").await;
            assert_eq!(answer.status, 200, "{kind}");
        }
        drop((sockets, streams));
        eventually("its permits are returned", async || {
            let all =
                join_all((0..5).map(|_| h2_request(&send, as_client(ATTACKER, &instance.host, "/")))).await;
            all.into_iter().all(|answer| answer.unwrap().status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn unread_answers_are_bounded_in_bytes_for_each_client_and_for_all() {
    // A client may use a sixteenth: two answers.
    let server = Server::start(&[("MAX_BUFFERED_BYTES", "16M")]).await;
    let (attacked, good) = (server.acquire().await, server.acquire().await);
    let mut unread = Vec::new();
    for client in 0..18 {
        for n in 0..3 {
            let mut connection = RawConnection::connect(server.port).await;
            connection
                .send(format!(
                    "GET /download?bytes=100000000 HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: 203.0.113.{client}\r\n\r\n",
                    attacked.host
                ))
                .await;
            let expected = match (client, n) {
                (16.., _) => 503,
                (_, 2) => 429,
                _ => 200,
            };
            let status = connection.read_head().await.status;
            assert_eq!(status, expected, "answer {n} of client {client}");
            unread.push(connection);
        }
    }
    let json = [("accept", "application/json")];
    let large = request(server.port, "GET", &attacked.host, "/download?bytes=1000000", &json, "").await;
    large.assert_error(503, "TOO_MANY_CONNECTIONS");
    // Small answers and the API need no bytes of the budget.
    assert_eq!(get(server.port, &good.host, "/download?bytes=1000").await.status, 200);
    assert_eq!(server.request("GET", "/", &[], "").await.status, 200);
    drop(unread);
    eventually("the bytes are free again", async || {
        (get(server.port, &good.host, "/download?bytes=1000000").await.status == 200).then_some(())
    })
    .await;
}

/// Returns the memory of a process that is in use now, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_unread_answer_costs_less_than_half_a_mebibyte() {
    const STREAMS: usize = 96;
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for _ in 0..3 {
        get(server.port, &instance.host, "/download?bytes=1000000").await;
    }
    let path = "/download?bytes=100000000";
    let before = resident_kib(server.pid());
    let send = h2c(server.port).await;
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        let request = Request::get(format!("http://{}{path}", instance.host)).body(()).unwrap();
        let (answer, _) = send.clone().ready().await.unwrap().send_request(request, true).unwrap();
        unread.push(answer.await.unwrap());
    }
    let mut raw = Vec::new();
    for _ in 0..STREAMS {
        let mut connection = RawConnection::connect(server.port).await;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
        assert_eq!(connection.read_head().await.status, 200);
        raw.push(connection);
    }
    // The buffers have filled up when the memory no longer grows.
    let mut last = resident_kib(server.pid());
    eventually("the memory no longer grows", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = resident_kib(server.pid());
        let is_stable = now <= last + 256;
        last = now;
        is_stable.then_some(())
    })
    .await;
    let each = last.saturating_sub(before) / (2 * STREAMS as u64);
    println!("{each} KiB for each unread answer");
    assert!(each <= 512, "{each} KiB for each unread answer");
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
}
