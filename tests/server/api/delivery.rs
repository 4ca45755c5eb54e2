//! Visitors who hang up in the middle of an acquire: what they did not get is nobody's, and others get it.

use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::harness::{Demo, PATIENCE, Server, eventually, eventually_within, h2_ask, h2c, raw};

pub const ASK: &str = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
/// How a visitor behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    /// Reads all, and closes then.
    Stays,
    /// Leaves in the middle of its own request.
    HalfAsks,
    /// Leaves when the request is sent.
    LeavesAtOnce,
    /// Leaves when the request is sent and this long has passed, with all read that was there.
    LeavesAfter(Duration),
    /// Says when the request is sent, and this long has passed, that it will send nothing more, and reads on.
    ClosesItsHalf(Duration),
}

/// What an answer handed out, if it is whole.
pub fn handed(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let length: usize = field("content-length").map_or(0, |length| length.parse().unwrap());
    if body.len() < length {
        return None;
    }
    match head.split(' ').nth(1)? {
        "200" => Some(Demo::from_json(&serde_json::from_str(body).unwrap()).id),
        "303" => {
            let location = field("location")?;
            Some(location.split_once("://")?.1.split('.').next()?.to_owned())
        }
        "503" => None,
        other => panic!("{other}: {text}"),
    }
}

/// One visitor, and the instance that it heard of.
pub async fn visit(port: u16, ask: &str, manner: Manner) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let sent = if manner == Manner::HalfAsks { &ask[..ask.len() - 2] } else { ask };
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    match manner {
        Manner::HalfAsks | Manner::LeavesAtOnce => {}
        Manner::LeavesAfter(wait) => {
            // A clock and not a timer, which is a millisecond wide.
            let reading = async {
                while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {}
                std::future::pending::<()>().await;
            };
            let _ = timeout(wait, reading).await;
            // What the kernel has is read, too, whether the runtime knows of it or not.
            let mut stream = stream.into_std().unwrap();
            let mut more = [0; 4096];
            while let Ok(n @ 1..) = std::io::Read::read(&mut stream, &mut more) {
                answer.extend_from_slice(&more[..n]);
            }
            drop(stream);
            return handed(&answer);
        }
        Manner::ClosesItsHalf(wait) => {
            tokio::time::sleep(wait).await;
            // The server may have closed the connection by now.
            let _ = stream.shutdown().await;
            let reading = async { while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {} };
            timeout(PATIENCE, reading).await.expect("the server closes the connection");
        }
        Manner::Stays => {
            let whole = |answer: &[u8]| handed(answer).is_some() || answer.windows(4).any(|w| w == b" 503");
            let reading =
                async { while !whole(&answer) && stream.read_buf(&mut answer).await.unwrap() > 0 {} };
            timeout(PATIENCE, reading).await.expect("an answer");
        }
    }
    drop(stream);
    handed(&answer)
}

/// Waits until exactly these are assigned, and the pool is full beside them.
pub async fn only_these_are_assigned(server: &Server, got: &[String], limit: Duration) {
    eventually_within(limit, "what nobody got is nobody's", async || {
        let stats = server.stats().await;
        let full = stats["ready"].as_u64()? >= stats["target"].as_u64()? && stats["warming"] == 0;
        (stats["assigned"] == got.len() && full).then_some(())
    })
    .await;
    are_assigned(server, got).await;
}

/// Each of these is somebody's.
pub async fn are_assigned(server: &Server, got: &[String]) {
    for id in got {
        let answer = server.call("GET", &format!("/api/v1/demo/{id}"), "").await;
        assert_eq!(answer.status, 200, "{id} was handed to somebody: {}", answer.text());
    }
}

pub async fn give_back(server: &Server, got: &[String]) {
    for id in got {
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await.status, 200);
    }
}

/// A pool of which nothing is ready, and whose instances take long to be made.
async fn slow_server() -> Server {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let templates = format!(
        "[templates.default]\ncommand = [\"sh\", \"-c\", \"sleep 0.7; exec {program} sample-app\"]\n"
    );
    let sizes = [
        ("POOL_TARGET_SIZE", "0"),
        ("POOL_MIN_SIZE", "0"),
        ("POOL_MAX_SIZE", "12"),
        ("ACQUIRE_TIMEOUT", "10s"),
    ];
    Server::with_file(&sizes, &templates).await
}

#[tokio::test]
async fn whoever_leaves_the_line_leaves_the_instance_made_for_it_to_others() {
    let server = slow_server().await;
    let visits = (0..6).map(|n| visit(server.port, ASK, Manner::LeavesAfter(Duration::from_millis(n * 50))));
    assert!(join_all(visits).await.into_iter().all(|got| got.is_none()));
    let got = visit(server.port, ASK, Manner::Stays).await.unwrap();
    eventually("nothing is left to do", async || {
        let stats = server.stats().await;
        (stats["assigned"] == 1 && stats["warming"] == 0).then_some(())
    })
    .await;
    give_back(&server, &[got]).await;
}

#[tokio::test]
async fn over_http2_a_cancelled_acquire_leaves_nothing_either() {
    let server = slow_server().await;
    let url = format!("http://localhost:{}/api/v1/demo/acquire", server.port);
    let ask = || Request::post(&url).body(()).unwrap();
    let send = h2c(server.port).await;
    for n in 0..4_u64 {
        let mut send = send.clone().ready().await.unwrap();
        let (answer, mut stream) = send.send_request(ask(), true).unwrap();
        let wait = Duration::from_millis(n * 60);
        assert!(timeout(wait, answer).await.is_err(), "it takes longer to be made");
        stream.send_reset(h2::Reason::CANCEL);
    }
    // And one whose whole connection ends.
    let other = h2c(server.port).await;
    assert!(timeout(Duration::from_millis(60), h2_ask(&other, ask())).await.is_err());
    drop(other);
    let answer = h2_ask(&send, ask()).await.unwrap();
    let got = Demo::from_json(&answer.json());
    eventually("only that one is assigned", async || {
        let stats = server.stats().await;
        (stats["assigned"] == 1 && stats["warming"] == 0).then_some(())
    })
    .await;
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{}", got.id), "").await.status, 200);
}

/// Requests for an instance and for the API mixed: then it is Pingora who answers.
#[tokio::test]
async fn on_a_connection_that_pingora_holds_an_answer_that_nobody_takes_is_undone_too() {
    let server = Server::start(&[("POOL_MAX_SIZE", "8")]).await;
    let demo = server.acquire().await;
    let first = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host);
    for n in 0..12_u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut answer = [0; 65_536];
        assert!(timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap() > 0);
        stream.write_all(ASK.as_bytes()).await.unwrap();
        drop(stream);
        // Each as it likes: before it is read, while it is made, when it is written.
        tokio::time::sleep(Duration::from_micros(n * 100)).await;
    }
    only_these_are_assigned(&server, std::slice::from_ref(&demo.id), PATIENCE).await;
    let last = ASK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let kept = raw(server.port, format!("{first}{last}").as_bytes()).await;
    assert!(kept.contains("\"expires_at\""), "and one that is taken is not");
    eventually("it is assigned", async || (server.stats().await["assigned"] == 2).then_some(())).await;
}
