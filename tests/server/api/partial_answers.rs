//! Clients that stop reading so that a part of an acquire's answer is sent, and then reset the connection. They may know
//! the address of their instance, so no other visitor gets it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

use super::delivery::assigned_id;
use crate::support::harness::{
    AcquiredInstance, Answer, Certificate, MAX_WAIT, RawConnection, Server, Transport, eventually,
    instance_folders,
};

/// The pool has one instance, so that the one which a client gets is known before.
const SIZES: [(&str, &str); 3] = [("POOL_TARGET_SIZE", "1"), ("POOL_MIN_SIZE", "1"), ("POOL_MAX_SIZE", "4")];

/// Bytes that the client's kernel receives ahead of the client. The kernel doubles it.
const RECEIVE_BUFFER: usize = 1152;
/// A small segment size of the client keeps the server's send buffer small, too.
const SEGMENT_SIZE: u32 = 536;
/// More answers than the buffers of a connection take.
const MAX_FILLERS: usize = 512;
/// Attacks until one must have met its moment.
const MAX_ATTACKS: usize = 60;
/// The server is stuck if it handles nothing for this long.
const STUCK_AFTER: Duration = Duration::from_millis(500);
/// As often the server was seen to have nothing to do.
const STUCK_SAMPLES: usize = 50;
/// Everything has arrived if nothing arrives for this long.
const QUIET_AFTER: Duration = Duration::from_millis(300);

/// Whose requests come before the acquire on its connection.
#[derive(Debug, Clone, Copy)]
enum Before {
    Api,
    Instance,
}

impl Before {
    /// Returns a request whose small answer helps to fill the send buffer.
    fn filler(self, id: &str) -> String {
        let (host, path) = match self {
            Before::Api => ("localhost", "/health"),
            Before::Instance => ("no-such-instance.localhost", "/"),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nX-Request-Id: {id}\r\n\r\n"
        )
    }
}

/// The requests that assign an instance.
#[derive(Debug, Clone, Copy)]
enum Acquire {
    Button,
    Api,
}

impl Acquire {
    fn request(self, id: &str) -> String {
        let path = match self {
            Acquire::Button => "/try/default",
            Acquire::Api => "/api/v1/demo/acquire",
        };
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\nContent-Length: 0\r\n\r\n")
    }
}

/// What a client got of the answer that assigns an instance to it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Got {
    /// Nothing, or an incomplete record of TLS, which a usual client cannot decrypt.
    Nothing,
    PartWithAddress,
    Everything,
}

/// What the server did with the requests of a client that reads nothing.
struct Stalled {
    client: Box<dyn Transport>,
    /// The number of its requests that the server handled until it was stuck.
    handled: usize,
}

/// A server, and how its hostile clients connect.
struct Target {
    server: Server,
    certificate: Option<Certificate>,
    before: Before,
}

impl Target {
    async fn start(before: Before, is_encrypted: bool) -> Self {
        let (server, certificate) = if is_encrypted {
            let (server, certificate) = Server::with_tls_and(&SIZES).await;
            (server, Some(certificate))
        } else {
            (Server::start(&SIZES).await, None)
        };
        Self { server, certificate, before }
    }

    /// Connects with a small receive buffer, from an address of its own: the kernel sizes a send buffer by what it
    /// remembers of earlier connections to an address. A reset ends the connection when it is dropped.
    async fn connect(&self) -> Box<dyn Transport> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        socket.set_tcp_mss(SEGMENT_SIZE).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        let [.., a, b, c] = *uuid::Uuid::now_v7().as_bytes();
        socket.bind(&SocketAddr::from(([127, 64 + a % 64, b, c.clamp(1, 254)], 0)).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], self.server.port));
        let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await.unwrap();
        match &self.certificate {
            Some(certificate) => Box::new(certificate.connect_over(stream, &[]).await.unwrap()),
            None => Box::new(stream),
        }
    }

    /// Sends these requests, whose ids begin with `prefix`, and reads nothing until the server is stuck, or has handled
    /// all of them and written what the client's connection takes.
    async fn stall(&self, prefix: &str, requests: &[String]) -> Stalled {
        let mut client = self.connect().await;
        let bytes = requests.concat();
        timeout(STUCK_AFTER, client.write_all(bytes.as_bytes())).await.expect("the server's buffer").unwrap();
        client.flush().await.unwrap();
        let (mut handled, mut since, mut idle) = (0, Instant::now(), 0);
        eventually("the server is stuck", async || {
            let now = self.server.log().iter().filter(|line| line.contains(prefix)).count();
            if now > handled {
                (handled, since, idle) = (now, Instant::now(), 0);
            }
            // A busy host may leave the server no processor, which is no reason to take it for stuck.
            idle += usize::from(!has_running_thread(self.server.pid()));
            (since.elapsed() > STUCK_AFTER && idle > STUCK_SAMPLES).then_some(())
        })
        .await;
        Stalled { client, handled }
    }

    /// Waits until exactly one instance exists, which is ready. Returns its id.
    async fn only_instance(&self) -> String {
        eventually("one instance is ready", async || {
            let stats = self.answer("GET", "/api/v1/pool/stats").await.json();
            let folders = instance_folders(&self.server.folder);
            let is_settled = stats["ready"] == 1 && stats["warming"] == 0 && stats["assigned"] == 0;
            (is_settled && folders.len() == 1).then(|| folders[0].clone())
        })
        .await
    }

    /// Sends one request to the API, as a well-behaved client.
    async fn answer(&self, method: &str, path: &str) -> Answer {
        let mut connection = match &self.certificate {
            Some(certificate) => {
                RawConnection::over(certificate.connect(self.server.port, &[]).await.unwrap())
            }
            None => RawConnection::connect(self.server.port).await,
        };
        connection
            .send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"))
            .await;
        connection.read_answer().await
    }

    /// Acquires an instance as the next visitor, and returns it to the pool's owner. Returns its id.
    async fn next_visitor(&self) -> String {
        let answer = self.answer("POST", "/api/v1/demo/acquire").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = AcquiredInstance::from_json(&answer.json()).id;
        assert_eq!(self.answer("DELETE", &format!("/api/v1/demo/{id}")).await.status, 200);
        id
    }

    /// Asserts that the next visitor gets another instance than `id`, whose client is gone.
    async fn assert_next_visitor_gets_another(&self, id: &str) {
        eventually("the instance of the hostile client is not assigned", async || {
            let stats = self.answer("GET", "/api/v1/pool/stats").await.json();
            (stats["assigned"] == 0 && stats["ready"].as_u64()? > 0).then_some(())
        })
        .await;
        assert_ne!(self.next_visitor().await, id, "the hostile client may know its address");
    }

    /// Lets a client stall the server in the middle of the answer to `acquire`. Then it reads what was sent, while the
    /// server is stopped as if it were busy, and resets the connection. Returns what the client got of the answer;
    /// `None` if the server did not handle the acquire.
    async fn attack(&self, round: usize, fillers: usize, acquire: Acquire) -> Option<Got> {
        let id = self.only_instance().await;
        let prefix = format!("{acquire:?}-{round}-");
        let mut requests: Vec<_> =
            (0..fillers).map(|n| self.before.filler(&format!("{prefix}{n}"))).collect();
        // A long id makes the answer longer than a filler's, so that it does not fit where one of them does not.
        requests.push(acquire.request(&format!("{prefix}{}", "x".repeat(100))));
        let Stalled { mut client, handled } = self.stall(&prefix, &requests).await;
        if handled < requests.len() {
            // Only the acquire assigns an instance, and it was not handled.
            return None;
        }
        self.server.signal("STOP");
        let mut got = Vec::new();
        while let Ok(Ok(1..)) = timeout(QUIET_AFTER, client.read_buf(&mut got)).await {}
        drop(client);
        self.server.signal("CONT");
        let got = String::from_utf8_lossy(&got).into_owned();
        let last = got.rfind("HTTP/1.1 ").map_or("", |at| &got[at..]);
        let got = if !last.contains(&id) {
            Got::Nothing
        } else if assigned_id(last.as_bytes()).is_none() {
            Got::PartWithAddress
        } else {
            // A client that got the whole answer keeps the instance.
            assert_ne!(self.next_visitor().await, id, "assigned twice");
            self.answer("DELETE", &format!("/api/v1/demo/{id}")).await;
            return Some(Got::Everything);
        };
        self.assert_next_visitor_gets_another(&id).await;
        Some(got)
    }
}

/// Whether a thread of a process runs or waits for a processor.
fn has_running_thread(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats
        .into_iter()
        .any(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['R', 'D'])))
}

/// Attacks until an answer was sent in part. Searches for the number of unread answers before it that fill the buffers of
/// the connection. Which number that is depends on the kernel and varies from one connection to the next.
async fn attack_with_partial_answers(before: Before, is_encrypted: bool) {
    let target = Target::start(before, is_encrypted).await;
    let wanted = if is_encrypted { Got::Nothing } else { Got::PartWithAddress };
    let (mut too_few, mut too_many) = (0, MAX_FILLERS);
    for acquire in [Acquire::Button, Acquire::Api] {
        let mut attacks = Vec::new();
        while attacks.last().is_none_or(|(_, got)| *got != Some(wanted)) {
            assert!(attacks.len() < MAX_ATTACKS, "{acquire:?}: no answer was sent in part: {attacks:?}");
            let fillers = usize::midpoint(too_few, too_many);
            let got = target.attack(attacks.len(), fillers, acquire).await;
            attacks.push((fillers, got));
            if got == Some(Got::Everything) {
                too_few = fillers;
            } else {
                too_many = fillers;
            }
            if too_many - too_few < 2 {
                (too_few, too_many) = (too_few.saturating_sub(4), too_many + 4);
            }
        }
        // Both kinds of answers are of about the same length.
        (too_few, too_many) = (too_few.saturating_sub(8), too_many + 8);
    }
}

#[tokio::test]
async fn a_client_that_got_a_part_of_its_answer_after_those_of_an_instance_does_not_share_its_instance() {
    attack_with_partial_answers(Before::Instance, false).await;
}

#[tokio::test]
async fn a_client_that_got_a_part_of_its_answer_after_those_of_the_api_does_not_share_its_instance() {
    attack_with_partial_answers(Before::Api, false).await;
}

#[tokio::test]
async fn a_client_that_got_a_part_of_an_encrypted_answer_after_those_of_an_instance_does_not_share_its_instance()
 {
    attack_with_partial_answers(Before::Instance, true).await;
}

#[tokio::test]
async fn a_client_that_got_a_part_of_an_encrypted_answer_after_those_of_the_api_does_not_share_its_instance()
{
    attack_with_partial_answers(Before::Api, true).await;
}

/// A transport from which nothing more is read once it is stalled.
struct Stallable {
    inner: Box<dyn Transport>,
    is_stalled: Arc<AtomicBool>,
}

impl AsyncRead for Stallable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_stalled.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stallable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The client's side of an HTTP/2 connection.
struct Http2Client {
    send: h2::client::SendRequest<Bytes>,
    is_stalled: Arc<AtomicBool>,
    connection: tokio::task::JoinHandle<()>,
}

impl Http2Client {
    /// Connects to `target` with this flow-control window for each answer.
    async fn connect(target: &Target, window: u32) -> Self {
        let is_stalled = Arc::new(AtomicBool::new(false));
        let stream = Stallable { inner: target.connect().await, is_stalled: is_stalled.clone() };
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(window).initial_connection_window_size(1 << 24);
        let (send, connection) = settings.handshake(stream).await.unwrap();
        let connection = try_it_now::telemetry::task::spawn("test", async move { drop(connection.await) });
        Self { send: send.ready().await.unwrap(), is_stalled, connection }
    }

    async fn request(&self, method: &str, path: &str, id: &str) -> (ResponseFuture, h2::SendStream<Bytes>) {
        let uri = format!("http://localhost{path}");
        let request = Request::builder().method(method).uri(uri).header("x-request-id", id).body(()).unwrap();
        self.send.clone().ready().await.unwrap().send_request(request, true).unwrap()
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_after_its_head_arrived_does_not_share_its_instance() {
    let target = Target::start(Before::Instance, false).await;
    for _ in 0..2 {
        let id = target.only_instance().await;
        // No byte of the body may be sent.
        let client = Http2Client::connect(&target, 0).await;
        let (answer, mut stream) = client.request("POST", "/api/v1/demo/acquire", "reset").await;
        assert_eq!(timeout(MAX_WAIT, answer).await.unwrap().unwrap().status(), 200);
        stream.send_reset(h2::Reason::CANCEL);
        target.assert_next_visitor_gets_another(&id).await;
    }
}

#[tokio::test]
async fn a_head_in_the_queue_of_an_http2_connection_counts_as_sent() {
    let target = Target::start(Before::Instance, false).await;
    for path in ["/try/default", "/api/v1/demo/acquire"] {
        let id = target.only_instance().await;
        let client = Http2Client::connect(&target, 1 << 20).await;
        client.is_stalled.store(true, Ordering::Relaxed);
        let mut unread = Vec::new();
        for _ in 0..60 {
            unread.push(client.request("GET", "/", "filler").await);
        }
        let acquire = client.request("POST", path, path).await;
        target.server.log_until(|line| line.contains(&format!("\"request_id\":\"{path}\""))).await;
        client.connection.abort();
        drop((unread, acquire, client));
        // The instance is released, or stays assigned if the kernel closed the socket before it could be asked.
        eventually("another instance is ready", async || {
            let stats = target.answer("GET", "/api/v1/pool/stats").await.json();
            (stats["ready"].as_u64()? > 0).then_some(())
        })
        .await;
        assert_ne!(target.next_visitor().await, id, "the hostile client may know its address");
        target.answer("DELETE", &format!("/api/v1/demo/{id}")).await;
    }
    let undone: Vec<_> =
        target.server.log().into_iter().filter(|line| line.contains("claim undone")).collect();
    assert!(undone.is_empty(), "{undone:?}");
}
