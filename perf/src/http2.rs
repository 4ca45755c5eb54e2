//! HTTP/2 over TLS: connections, requests one after another, and the load, of many streams on each of some connections.
//!
//! The load is closed: each stream sends the next request as soon as it has the response.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Connection, SendRequest};
use hdrhistogram::Histogram;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::certificate::Certificate;
use crate::clock::now;
use crate::failure::Failure;
use crate::load::{Outcome, Until, histogram, nanos};

/// Connections of a load.
pub(crate) const CONNECTIONS: usize = 16;
/// Requests in flight on each connection.
pub(crate) const STREAMS: usize = 10;

/// Maximum time of requests that are no load.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time of a load without any response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection of a client, which works only while it is awaited.
pub(crate) type ClientConnection = Connection<TlsStream<TcpStream>, Bytes>;

/// Returns a request without a body.
pub(crate) fn request(method: &str, path: &str, host: &str) -> Result<Request<()>, Failure> {
    let request = Request::builder().method(method).uri(format!("https://{host}{path}"));
    Ok(request.header("accept", "*/*").body(())?)
}

/// Connects, with windows of so many bytes for the connection and each stream; `None` for those of the protocol.
pub(crate) async fn connect(
    address: SocketAddr,
    certificate: &Certificate,
    window: Option<u32>,
) -> Result<(SendRequest<Bytes>, ClientConnection), Failure> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(certificate.client.clone()).connect(name, socket).await?;
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false);
    if let Some(window) = window {
        builder.initial_window_size(window).initial_connection_window_size(window);
    }
    Ok(builder.handshake(stream).await?)
}

/// Returns a runtime whose only thread is that of the caller.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Makes requests one after another on one connection. Returns the status and the body of each response.
pub(crate) fn exchange(
    address: SocketAddr,
    certificate: &Certificate,
    requests: Vec<Request<()>>,
) -> Result<Vec<(u16, Vec<u8>)>, Failure> {
    let all = async {
        let (mut sender, connection) = connect(address, certificate, None).await?;
        tokio::task::spawn_local(connection);
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            responses.push(respond(&mut sender, request, |_| {}).await?);
        }
        Ok::<_, Failure>(responses)
    };
    LocalSet::new().block_on(&runtime()?, async { tokio::time::timeout(EXCHANGE_TIMEOUT, all).await? })
}

/// Makes one request. `begun` is called when its head was sent.
async fn respond(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    begun: impl FnOnce(Instant),
) -> Result<(u16, Vec<u8>), Failure> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    begun(now());
    let (response, _) = sender.send_request(request, true)?;
    let response = response.await?;
    let status = response.status().as_u16();
    Ok((status, read(response.into_body()).await?))
}

/// Reads a body to its end.
async fn read(mut body: RecvStream) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What the streams of a load have reached.
struct Progress {
    counted_from: Instant,
    end: Option<Instant>,
    /// Requests that may still be sent.
    rest: u64,
    responses: u64,
    times: Histogram<u64>,
    last: Instant,
}

/// Runs a closed load of `GET` of the same path of one host after another.
pub(crate) fn closed(
    address: SocketAddr,
    certificate: &Certificate,
    until: Until,
    hosts: &[String],
    path: &str,
) -> Result<Outcome, Failure> {
    let requests = hosts.iter().map(|host| request("GET", path, host)).collect::<Result<Vec<_>, _>>()?;
    let requests = Rc::new(requests);
    LocalSet::new().block_on(&runtime()?, async {
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            let (sender, connection) = connect(address, certificate, None).await?;
            tokio::task::spawn_local(connection);
            senders.push(sender);
        }
        let begin = now();
        let (counted_from, end, rest) = match until {
            Until::Elapsed(time) => (begin + time / 10, Some(begin + time), u64::MAX),
            Until::Responses(count) => (begin, None, count),
        };
        let (responses, times) = (0, histogram());
        let progress = Progress { counted_from, end, rest, responses, times, last: begin };
        let progress = Rc::new(RefCell::new(progress));
        let streams: Vec<_> = (0..CONNECTIONS * STREAMS)
            .map(|number| {
                let sender = senders[number % CONNECTIONS].clone();
                tokio::task::spawn_local(stream(sender, number, requests.clone(), progress.clone()))
            })
            .collect();
        let all = async {
            for stream in streams {
                stream.await??;
            }
            Ok::<_, Failure>(())
        };
        tokio::select! {
            done = all => done?,
            stalled = stay_awake(&progress) => return Err(stalled),
        }
        let progress = progress.borrow();
        let took = progress.end.unwrap_or(progress.last) - progress.counted_from;
        let rate = progress.times.len() as f64 / took.as_secs_f64();
        Ok(Outcome { rate, responses: progress.responses, times: progress.times.clone() })
    })
}

/// Sends one request after another on a stream of its own each, until the load ends.
async fn stream(
    mut sender: SendRequest<Bytes>,
    mut number: usize,
    requests: Rc<Vec<Request<()>>>,
    progress: Rc<RefCell<Progress>>,
) -> Result<(), Failure> {
    loop {
        {
            let mut progress = progress.borrow_mut();
            if progress.rest == 0 || progress.end.is_some_and(|end| now() >= end) {
                return Ok(());
            }
            progress.rest -= 1;
        }
        let mut sent = None;
        // No two streams request the same host at a time if there are enough of them.
        let request = requests[number % requests.len()].clone();
        let (status, body) = respond(&mut sender, request, |at| sent = Some(at)).await?;
        if status != 200 {
            let text = String::from_utf8_lossy(&body).into_owned();
            return Err(format!("the server responded with {status}: {text}").into());
        }
        number += CONNECTIONS * STREAMS;
        let received = now();
        let mut progress = progress.borrow_mut();
        progress.responses += 1;
        if received >= progress.counted_from && progress.end.is_none_or(|end| received < end) {
            progress.times.saturating_record(nanos(received - sent.unwrap_or(received)));
        }
        progress.last = received;
    }
}

/// Keeps this thread from sleeping, as the load of HTTP/1 does: else a server that is slower than this thread would pay
/// for waking it. Returns only when no response has come for too long.
async fn stay_awake(progress: &RefCell<Progress>) -> Failure {
    let mut seen = 0;
    loop {
        let (responses, last) = {
            let progress = progress.borrow();
            (progress.responses, progress.last)
        };
        if responses == seen {
            if now() >= last + RESPONSE_TIMEOUT {
                return "the server has stopped responding".into();
            }
            // Other processes on this core run when there is nothing to read.
            rustix::thread::sched_yield();
        }
        seen = responses;
        tokio::task::yield_now().await;
    }
}
