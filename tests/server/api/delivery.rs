//! Clients that disconnect during an acquire: an instance whose assignment was not delivered becomes ready again.

use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::harness::{
    AcquiredInstance, MAX_WAIT, Server, eventually, eventually_within, h2_request, h2c, send_raw,
};

pub const ACQUIRE: &str =
    "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
/// What a client does during an acquire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClientBehaviour {
    /// Reads the whole answer and closes the connection.
    ReadsTheAnswer,
    /// Closes the connection after half of the request.
    SendsHalfTheRequest,
    /// Closes the connection right after the request.
    ClosesAfterTheRequest,
    /// Closes the connection this long after the request. Reads everything that has arrived by then.
    ClosesAfter(Duration),
    /// Closes its sending side this long after the request, and reads on.
    HalfClosesAfter(Duration),
}

/// Returns the id of the instance that an answer assigns, if the answer is complete.
pub fn assigned_id(answer: &[u8]) -> Option<String> {
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
        "200" => Some(AcquiredInstance::from_json(&serde_json::from_str(body).unwrap()).id),
        "303" => {
            let location = field("location")?;
            Some(location.split_once("://")?.1.split('.').next()?.to_owned())
        }
        "503" => None,
        other => panic!("{other}: {text}"),
    }
}

/// Sends a request as one client and returns the id of the instance that it learned.
pub async fn acquire_as(port: u16, request: &str, behaviour: ClientBehaviour) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let sent = if behaviour == ClientBehaviour::SendsHalfTheRequest {
        &request[..request.len() - 2]
    } else {
        request
    };
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    match behaviour {
        ClientBehaviour::SendsHalfTheRequest | ClientBehaviour::ClosesAfterTheRequest => {}
        ClientBehaviour::ClosesAfter(wait) => {
            // A timeout around reading is more precise than a timer, whose resolution is a millisecond.
            let reading = async {
                while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {}
                std::future::pending::<()>().await;
            };
            let _ = timeout(wait, reading).await;
            // Also reads what the kernel has received and the async runtime does not know of yet.
            let mut stream = stream.into_std().unwrap();
            let mut more = [0; 4096];
            while let Ok(n @ 1..) = std::io::Read::read(&mut stream, &mut more) {
                answer.extend_from_slice(&more[..n]);
            }
            drop(stream);
            return assigned_id(&answer);
        }
        ClientBehaviour::HalfClosesAfter(wait) => {
            tokio::time::sleep(wait).await;
            // The server may have closed the connection already.
            let _ = stream.shutdown().await;
            let reading = async { while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {} };
            timeout(MAX_WAIT, reading).await.expect("the server closes the connection");
        }
        ClientBehaviour::ReadsTheAnswer => {
            let whole =
                |answer: &[u8]| assigned_id(answer).is_some() || answer.windows(4).any(|w| w == b" 503");
            let reading =
                async { while !whole(&answer) && stream.read_buf(&mut answer).await.unwrap() > 0 {} };
            timeout(MAX_WAIT, reading).await.expect("the answer arrives");
        }
    }
    drop(stream);
    assigned_id(&answer)
}

/// Waits until exactly these instances are assigned and the pool is full beside them.
pub async fn wait_until_only_these_are_assigned(server: &Server, assigned: &[String], limit: Duration) {
    eventually_within(limit, "undelivered instances are not assigned", async || {
        let stats = server.stats().await;
        let full = stats["ready"].as_u64()? >= stats["target"].as_u64()? && stats["warming"] == 0;
        (stats["assigned"] == assigned.len() && full).then_some(())
    })
    .await;
    assert_assigned(server, assigned).await;
}

/// Asserts that each of these instances is assigned.
pub async fn assert_assigned(server: &Server, assigned: &[String]) {
    for id in assigned {
        let answer = server.call("GET", &format!("/api/v1/demo/{id}"), "").await;
        assert_eq!(answer.status, 200, "{id} was delivered: {}", answer.text());
    }
}

pub async fn release_all(server: &Server, assigned: &[String]) {
    for id in assigned {
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await.status, 200);
    }
}

/// Starts a server with no ready instance, whose instances take long to start.
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
async fn a_client_that_leaves_the_wait_queue_leaves_its_instance_to_others() {
    let server = slow_server().await;
    let visits = (0..6).map(|n| {
        acquire_as(server.port, ACQUIRE, ClientBehaviour::ClosesAfter(Duration::from_millis(n * 50)))
    });
    assert!(join_all(visits).await.into_iter().all(|assigned| assigned.is_none()));
    let assigned = acquire_as(server.port, ACQUIRE, ClientBehaviour::ReadsTheAnswer).await.unwrap();
    eventually("nothing else is assigned or warming", async || {
        let stats = server.stats().await;
        (stats["assigned"] == 1 && stats["warming"] == 0).then_some(())
    })
    .await;
    release_all(&server, &[assigned]).await;
}

#[tokio::test]
async fn a_client_that_closes_its_write_half_in_the_wait_queue_gets_its_instance() {
    let server = slow_server().await;
    let visits = (0..4).map(|n| {
        acquire_as(server.port, ACQUIRE, ClientBehaviour::HalfClosesAfter(Duration::from_millis(n * 50)))
    });
    let assigned: Vec<String> =
        join_all(visits).await.into_iter().map(|id| id.expect("the answer arrives")).collect();
    wait_until_only_these_are_assigned(&server, &assigned, MAX_WAIT).await;
    release_all(&server, &assigned).await;
}

#[tokio::test]
async fn a_cancelled_acquire_over_http2_leaves_nothing_assigned() {
    let server = slow_server().await;
    let url = format!("http://localhost:{}/api/v1/demo/acquire", server.port);
    let request = || Request::post(&url).body(()).unwrap();
    let send = h2c(server.port).await;
    for n in 0..4_u64 {
        let mut send = send.clone().ready().await.unwrap();
        let (answer, mut stream) = send.send_request(request(), true).unwrap();
        let wait = Duration::from_millis(n * 60);
        assert!(timeout(wait, answer).await.is_err(), "provisioning takes longer");
        stream.send_reset(h2::Reason::CANCEL);
    }
    // The whole connection of this client ends.
    let other = h2c(server.port).await;
    assert!(timeout(Duration::from_millis(60), h2_request(&other, request())).await.is_err());
    drop(other);
    let answer = h2_request(&send, request()).await.unwrap();
    let assigned = AcquiredInstance::from_json(&answer.json());
    eventually("only that instance is assigned", async || {
        let stats = server.stats().await;
        (stats["assigned"] == 1 && stats["warming"] == 0).then_some(())
    })
    .await;
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{}", assigned.id), "").await.status, 200);
}

/// Requests for an instance and for the API on one connection are served by Pingora.
#[tokio::test]
async fn an_undelivered_answer_on_a_connection_of_pingora_is_undone() {
    let server = Server::start(&[("POOL_MAX_SIZE", "8")]).await;
    let instance = server.acquire().await;
    let first = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
    for n in 0..12_u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut answer = [0; 65_536];
        assert!(timeout(MAX_WAIT, stream.read(&mut answer)).await.unwrap().unwrap() > 0);
        stream.write_all(ACQUIRE.as_bytes()).await.unwrap();
        drop(stream);
        // The close happens before the request is read, while it is handled, or when the answer is written.
        tokio::time::sleep(Duration::from_micros(n * 100)).await;
    }
    wait_until_only_these_are_assigned(&server, std::slice::from_ref(&instance.id), MAX_WAIT).await;
    let last = ACQUIRE.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let kept = send_raw(server.port, format!("{first}{last}").as_bytes()).await;
    assert!(kept.contains("\"expires_at\""), "a delivered answer is not undone");
    eventually("it is assigned", async || (server.stats().await["assigned"] == 2).then_some(())).await;
}
