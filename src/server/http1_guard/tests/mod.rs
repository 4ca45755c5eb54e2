//! The guard alone, on a connection in memory.

mod engines;
mod half_closed;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use pingora_core::protocols::{Peek, Stream};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::{Instant, timeout};

use super::limits::{LINGER_TIMEOUT, MAX_HEAD_BYTES};
use super::read::{HTTP2_PREFACE, MAX_READ_AHEAD};
use super::read_state::ReadState;
use super::*;
use crate::pool::delivery_probe::{Outcome, granted};
use crate::telemetry::task;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

fn guarded() -> (DuplexStream, GuardedConnection) {
    let (client, server) = tokio::io::duplex(256 * 1024);
    (client, GuardedConnection::new(Box::new(server), ClientTimeouts::default()))
}

async fn send(client: &mut DuplexStream, bytes: impl AsRef<[u8]>) {
    client.write_all(bytes.as_ref()).await.unwrap();
}

/// Returns everything that can be read without waiting, and whether the connection ended.
fn read_now(guard: &mut GuardedConnection) -> io::Result<(String, bool)> {
    let mut all = Vec::new();
    let mut buf = [0; 7];
    loop {
        match guard.read(&mut buf).now_or_never() {
            None => return Ok((String::from_utf8(all).unwrap(), false)),
            Some(Ok(0)) => return Ok((String::from_utf8(all).unwrap(), true)),
            Some(Ok(n)) => all.extend_from_slice(&buf[..n]),
            Some(Err(e)) => return Err(e),
        }
    }
}

fn open(text: impl Into<String>) -> (String, bool) {
    (text.into(), false)
}

fn ended(text: impl Into<String>) -> (String, bool) {
    (text.into(), true)
}

/// Checks that the engine gives the connection back, because the guard refuses the next head with this status.
async fn assert_refused(guard: &mut GuardedConnection, status: u16, context: &str) {
    assert_eq!(read_now(guard).unwrap(), ended(""), "{context:.60}");
    assert!(guard.is_released());
    let NextHead::Refused(refusal) = guard.next_head().await else { panic!("it is refused: {context:.60}") };
    assert_eq!(refusal.status(), status, "{context:.60}");
}

/// Counts how often the reader is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_head_is_delivered_only_when_it_is_whole() {
    let (mut client, mut guard) = guarded();
    send(&mut client, &GET[..GET.len() - 1]).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(""));
    send(&mut client, "\n").await;
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
}

#[tokio::test]
async fn pipelined_requests_are_delivered_one_an_exchange() {
    let (mut client, mut guard) = guarded();
    let chunked = format!("{CHUNKED}3;x\r\nabc\r\n0\r\nX: y\r\n\r\n");
    let requests = [GET.to_owned(), format!("{POST}hello"), chunked, GET.to_owned()];
    send(&mut client, requests.concat()).await;
    let signal = guard.exchange_signal();
    for request in requests {
        assert_eq!(read_now(&mut guard).unwrap(), open(request));
        assert_eq!(read_now(&mut guard).unwrap(), open(""), "no byte of the next one");
        signal.finish_exchange();
    }
}

#[tokio::test]
async fn a_report_while_the_body_is_read_counts_from_the_end_of_the_body() {
    let (mut client, mut guard) = guarded();
    send(&mut client, format!("{POST}he")).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(format!("{POST}he")));
    guard.exchange_signal().finish_exchange();
    send(&mut client, format!("llo{GET}")).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(format!("llo{GET}")));
}

#[tokio::test]
async fn a_repeated_report_lets_in_one_message() {
    let (mut client, mut guard) = guarded();
    let signal = guard.exchange_signal();
    send(&mut client, GET).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    signal.finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), open(""));
    signal.finish_exchange();
    send(&mut client, GET.repeat(2)).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
}

#[tokio::test]
async fn a_report_wakes_a_reader_that_waits_for_it() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET.repeat(2)).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let (mut room, mut cx) = ([0; 64], Context::from_waker(&waker));
    let mut out = ReadBuf::new(&mut room);
    assert!(Pin::new(&mut guard).poll_read(&mut cx, &mut out).is_pending());
    let before = wakes.0.load(Ordering::SeqCst);
    guard.exchange_signal().finish_exchange();
    assert_eq!(wakes.0.load(Ordering::SeqCst), before + 1);
    assert!(Pin::new(&mut guard).poll_read(&mut cx, &mut out).is_ready());
    assert_eq!(out.filled(), GET.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_report_from_another_thread_is_lost() {
    const EXCHANGES: usize = 2000;
    let (mut client, mut guard) = guarded();
    send(&mut client, GET.repeat(EXCHANGES)).await;
    let (signal, (report, mut reports)) = (guard.exchange_signal(), tokio::sync::mpsc::unbounded_channel());
    let engine = task::spawn("reports", async move {
        while reports.recv().await.is_some() {
            signal.finish_exchange();
        }
    });
    let read = async {
        let mut buf = [0; 64];
        for _ in 0..EXCHANGES {
            assert_eq!(guard.read(&mut buf).await.unwrap(), GET.len());
            report.send(()).unwrap();
        }
    };
    timeout(Duration::from_secs(30), read).await.expect("a reader was not woken");
    drop(report);
    engine.await.unwrap();
}

#[tokio::test]
async fn a_client_cannot_fill_the_memory_while_an_exchange_runs() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET).await;
    send(&mut client, vec![b'a'; 200 * 1024]).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    assert_eq!(read_now(&mut guard).unwrap(), open(""));
    assert_eq!(guard.reader.buf.len(), MAX_READ_AHEAD);
}

#[tokio::test(start_paused = true)]
async fn before_a_refused_head_the_engine_gives_the_connection_back_and_nothing_follows() {
    for (bad, status) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        (str::from_utf8(HTTP2_PREFACE).unwrap().to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(100)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(MAX_HEAD_BYTES)), 431),
    ] {
        let (mut client, mut guard) = guarded();
        send(&mut client, format!("{GET}{bad}{GET}")).await;
        assert_eq!(read_now(&mut guard).unwrap(), open(GET));
        guard.exchange_signal().finish_exchange();
        assert_refused(&mut guard, status, &bad).await;
        guard.exchange_signal().finish_exchange();
        assert_eq!(read_now(&mut guard).unwrap(), ended(""), "the connection stays ended");
    }
}

#[tokio::test]
async fn a_refused_client_that_closed_its_write_half_still_gets_the_response() {
    let (mut client, mut guard) = guarded();
    send(&mut client, "bad\r\n\r\n").await;
    drop(client);
    assert_refused(&mut guard, 400, "bad").await;
}

#[tokio::test]
async fn an_engine_gets_the_heads_that_it_was_lent_for_and_gives_the_connection_back_before_another() {
    let (mut client, mut guard) = guarded();
    let other = GET.replace("Host: a", "Host: b");
    send(&mut client, format!("{GET}{POST}hello{other}{GET}")).await;
    guard.lend(Arc::new(|host| host == "a"));
    for message in [GET.to_owned(), format!("{POST}hello")] {
        assert_eq!(read_now(&mut guard).unwrap(), open(message));
        guard.exchange_signal().finish_exchange();
    }
    guard.write_all(b"response").await.unwrap();
    for _ in 0..2 {
        assert_eq!(read_now(&mut guard).unwrap(), open(""), "the response is not flushed");
        assert!(!guard.is_released());
    }
    guard.flush().await.unwrap();
    assert_eq!(read_now(&mut guard).unwrap(), ended(""));
    assert!(guard.is_released());
    // Hyper shuts down what it takes for an ended connection.
    AsyncWriteExt::shutdown(&mut guard).await.unwrap();
    let NextHead::Head(info) = guard.next_head().await else { panic!("the other head is not lost") };
    assert_eq!(info.host, "b");
    assert_eq!(read_now(&mut guard).unwrap(), open(other));
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), open(GET), "lent to no engine any more");
}

#[tokio::test]
async fn a_recalled_connection_comes_back_between_two_messages_with_what_was_read_of_the_next() {
    let (mut client, mut guard) = guarded();
    send(&mut client, POST).await;
    guard.lend(Arc::new(|_| true));
    assert_eq!(read_now(&mut guard).unwrap(), open(POST));
    guard.exchange_signal().recall();
    assert!(!guard.is_released() && !guard.is_untouched(), "a message is in progress");
    send(&mut client, "hello").await;
    assert_eq!(read_now(&mut guard).unwrap(), open("hello"));
    send(&mut client, &GET[..9]).await;
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), ended(""));
    assert!(guard.is_released() && guard.is_untouched());
    assert_eq!(guard.into_parts().0, &GET[..9]);
}

#[tokio::test]
async fn a_target_with_an_authority_reaches_the_engine_in_origin_form() {
    let (mut client, mut guard) = guarded();
    let absolute = "POST http://A:80/b HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\n\r\nhello";
    for cut in [1, 30, absolute.len()] {
        send(&mut client, &absolute[..cut]).await;
        let (begun, _) = read_now(&mut guard).unwrap();
        send(&mut client, format!("{}{GET}", &absolute[cut..])).await;
        let origin = "POST /b HTTP/1.1\r\nHost: A:80\r\nContent-Length: 5\r\n\r\nhello";
        let (rest, _) = read_now(&mut guard).unwrap();
        assert_eq!(begun + &rest, origin, "cut at {cut}");
        guard.exchange_signal().finish_exchange();
        assert_eq!(read_now(&mut guard).unwrap(), open(GET));
        guard.exchange_signal().finish_exchange();
    }
}

#[tokio::test]
async fn a_malformed_chunked_body_is_an_error_and_ends_the_connection() {
    let (mut client, mut guard) = guarded();
    send(&mut client, format!("{CHUNKED}5\r\nhello\r\n")).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(format!("{CHUNKED}5\r\nhello\r\n")));
    send(&mut client, format!("0\r\nHost: b\r\n\r\n{GET}")).await;
    assert_eq!(read_now(&mut guard).unwrap_err().kind(), io::ErrorKind::InvalidData);
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), ended(""));
}

#[tokio::test]
async fn a_connection_closed_inside_a_head_just_ends_but_inside_a_body_it_is_an_error() {
    for (sent, error) in [
        (GET[..20].to_owned(), None),
        (format!("{POST}hell"), Some(io::ErrorKind::UnexpectedEof)),
        (POST.to_owned(), Some(io::ErrorKind::UnexpectedEof)),
        (format!("{CHUNKED}5\r\nhel"), Some(io::ErrorKind::UnexpectedEof)),
        (format!("{CHUNKED}5\r\nhello\r\n0\r\n"), Some(io::ErrorKind::UnexpectedEof)),
    ] {
        let (mut client, mut guard) = guarded();
        send(&mut client, &sent).await;
        drop(client);
        let got = read_now(&mut guard);
        assert_eq!(got.as_ref().err().map(io::Error::kind), error, "{sent:?}");
        if error.is_none() {
            assert_eq!(got.unwrap(), ended(""));
        }
    }
}

#[tokio::test]
async fn one_empty_line_before_a_request_is_skipped_and_a_second_is_refused() {
    let (mut client, mut guard) = guarded();
    send(&mut client, "\r").await;
    assert_eq!(read_now(&mut guard).unwrap(), open(""));
    send(&mut client, format!("\n{GET}\r\n{GET}\r\n\r\n{GET}")).await;
    for _ in 0..2 {
        assert_eq!(read_now(&mut guard).unwrap(), open(GET));
        guard.exchange_signal().finish_exchange();
    }
    assert_refused(&mut guard, 400, "two empty lines").await;
}

#[tokio::test]
async fn next_head_waits_for_a_head_which_the_next_read_delivers() {
    let (mut client, mut guard) = guarded();
    assert!(guard.is_idle());
    send(&mut client, &GET[..9]).await;
    assert!(guard.next_head().now_or_never().is_none(), "cancelled inside the head");
    assert!(!guard.is_idle());
    send(&mut client, format!("{}{UPGRADE}", &GET[9..])).await;
    for _ in 0..2 {
        let NextHead::Head(info) = guard.next_head().await else {
            panic!("the second call finds the head, too")
        };
        assert_eq!(
            (info.host.as_str(), info.head.len, info.head.is_websocket_upgrade),
            ("a", GET.len(), false)
        );
    }
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    let NextHead::Head(info) = guard.next_head().await else {
        panic!("the call reports the end of the exchange")
    };
    assert!(info.head.is_websocket_upgrade);
}

#[tokio::test]
async fn next_head_does_not_continue_inside_a_message() {
    let (mut client, mut guard) = guarded();
    send(&mut client, format!("{POST}hel")).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(format!("{POST}hel")));
    assert!(matches!(guard.next_head().await, NextHead::Closed));
}

#[tokio::test]
async fn next_head_reports_a_refusal_and_the_end_of_the_connection() {
    let (mut client, mut guard) = guarded();
    send(&mut client, format!("{GET}GET / HTTP/1.1\r\nHost : a\r\n\r\n{GET}")).await;
    assert!(matches!(guard.next_head().await, NextHead::Head(_)));
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    assert!(matches!(guard.next_head().await, NextHead::Refused(Refusal::SpaceBeforeColon)));
    assert!(matches!(guard.next_head().await, NextHead::Closed));
    assert_eq!(read_now(&mut guard).unwrap(), ended(""));

    let (client, mut guard) = guarded();
    drop(client);
    assert!(matches!(guard.next_head().await, NextHead::Closed));
}

#[tokio::test]
async fn a_connection_that_begins_with_the_http_2_preface_passes_whole() {
    let (mut client, mut guard) = guarded();
    // Its first 18 bytes are a head by themselves.
    send(&mut client, &HTTP2_PREFACE[..18]).await;
    assert!(guard.next_head().now_or_never().is_none());
    send(&mut client, &HTTP2_PREFACE[18..]).await;
    assert!(matches!(guard.next_head().await, NextHead::Http2));
    assert!(guard.is_untouched(), "it may pass to another process");
    guard.begin_http2();
    let mut peeked = [0; HTTP2_PREFACE.len()];
    assert!(guard.try_peek(&mut peeked).await.unwrap());
    assert_eq!(peeked, HTTP2_PREFACE);
    send(&mut client, "\n frames").await;
    let text = format!("{}\n frames", str::from_utf8(HTTP2_PREFACE).unwrap());
    assert_eq!(read_now(&mut guard).unwrap(), open(text));
    drop(client);
    assert_eq!(read_now(&mut guard).unwrap(), ended(""));
}

#[tokio::test]
async fn the_http_2_preface_is_refused_where_http_1_was_spoken_before() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET).await;
    send(&mut client, HTTP2_PREFACE).await;
    assert!(matches!(guard.next_head().await, NextHead::Head(_)));
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    assert!(matches!(guard.next_head().await, NextHead::Refused(Refusal::Version)));
}

#[tokio::test]
async fn guarded_bytes_are_never_shown_to_a_peek() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET).await;
    assert!(matches!(guard.next_head().await, NextHead::Head(_)));
    let mut peeked = [1; HTTP2_PREFACE.len()];
    assert!(guard.try_peek(&mut peeked).await.unwrap());
    assert_eq!(peeked, [0; HTTP2_PREFACE.len()]);
}

#[tokio::test]
async fn what_follows_an_upgrade_passes_only_once_it_is_granted() {
    let (mut client, mut guard) = guarded();
    send(&mut client, format!("{UPGRADE}frames")).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(UPGRADE));
    assert_eq!(read_now(&mut guard).unwrap(), open(""));
    guard.exchange_signal().start_tunnel();
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), open("frames"));
    guard.exchange_signal().finish_exchange();
    send(&mut client, " and more").await;
    assert_eq!(read_now(&mut guard).unwrap(), open(" and more"));
}

#[tokio::test]
async fn what_follows_an_upgrade_that_was_declined_is_checked() {
    let (mut client, mut guard) = guarded();
    send(&mut client, format!("{UPGRADE}{GET}not HTTP\r\n")).await;
    assert_eq!(read_now(&mut guard).unwrap(), open(UPGRADE));
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    // No upgrade was asked for, so none can be granted.
    guard.exchange_signal().start_tunnel();
    guard.flush().await.unwrap();
    send(&mut client, "\r\n").await;
    assert_refused(&mut guard, 400, "not HTTP").await;
}

#[tokio::test]
async fn a_caller_may_take_the_head_and_the_connection_with_the_bytes_after_it() {
    let (mut client, mut guard) = guarded();
    assert!(guard.peek_head().is_empty());
    send(&mut client, format!("{UPGRADE}frames")).await;
    assert!(matches!(guard.next_head().await, NextHead::Head(_)));
    // As Pingora returns it.
    let stream: Stream = Box::new(guard);
    let mut guard = *stream.into_any().downcast::<GuardedConnection>().unwrap();
    assert_eq!(guard.peek_head(), UPGRADE.as_bytes());
    guard.discard_head();
    assert!(guard.peek_head().is_empty());
    let (rest, mut inner) = guard.into_parts();
    assert_eq!(rest, "frames");
    inner.write_all(b"back").await.unwrap();
    let mut back = [0; 4];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back");
}

#[tokio::test]
async fn writes_pass_through_and_the_buffer_is_not_printed() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET.replace("Host: a", "Host: a\r\nX-API-Key: secret")).await;
    assert!(matches!(guard.next_head().await, NextHead::Head(_)));
    guard.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
    guard.flush().await.unwrap();
    let mut got = [0; 17];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"HTTP/1.1 200 OK\r\n");
    assert!(!format!("{guard:?}").contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn the_guard_lingers_two_seconds_for_a_client_that_goes_on_sending() {
    let (mut client, mut guard) = guarded();
    send(&mut client, vec![b'a'; 100_000]).await;
    guard.write_all(b"response").await.unwrap();
    let start = Instant::now();
    guard.linger().await;
    assert_eq!(start.elapsed(), LINGER_TIMEOUT);
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    assert_eq!(response, "response");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_after_the_idle_deadline() {
    let (_client, mut guard) = guarded();
    let start = Instant::now();
    assert_eq!(guard.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(start.elapsed(), ClientTimeouts::default().idle);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_refused_after_its_deadline_however_it_trickles() {
    let (mut client, mut guard) = guarded();
    let trickle = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        for b in GET.bytes().take(25) {
            client.write_all(&[b]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        client
    };
    let start = Instant::now();
    let read = async {
        let mut buf = [0; 256];
        assert_eq!(guard.read(&mut buf).await.unwrap(), 0);
        assert_refused(&mut guard, 408, "too slow").await;
        start.elapsed()
    };
    let (after, _client) = tokio::join!(read, trickle);
    assert_eq!(after, Duration::from_secs(60) + ClientTimeouts::default().head);
}

#[tokio::test(start_paused = true)]
async fn next_head_keeps_its_deadlines_over_a_cancellation() {
    let (mut client, mut guard) = guarded();
    let start = Instant::now();
    send(&mut client, "G").await;
    assert!(timeout(Duration::from_secs(6), guard.next_head()).await.is_err());
    assert!(matches!(guard.next_head().await, NextHead::Refused(Refusal::HeadTimeout)));
    assert_eq!(start.elapsed(), ClientTimeouts::default().head);
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_does_not_begin_a_head_nor_lengthen_the_idle_deadline() {
    let (mut client, mut guard) = guarded();
    let start = Instant::now();
    assert!(timeout(Duration::from_secs(50), guard.next_head()).await.is_err());
    send(&mut client, "\r\n").await;
    assert!(matches!(guard.next_head().await, NextHead::Closed));
    assert_eq!(start.elapsed(), ClientTimeouts::default().idle);
}

#[tokio::test(start_paused = true)]
async fn a_running_exchange_has_no_deadline_and_the_next_wait_has_its_whole_deadline() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET).await;
    assert_eq!(guard.read(&mut [0; 64]).await.unwrap(), GET.len());
    assert!(timeout(Duration::from_secs(3600), guard.read(&mut [0; 8])).await.is_err());
    guard.exchange_signal().finish_exchange();
    let start = Instant::now();
    assert_eq!(guard.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(start.elapsed(), ClientTimeouts::default().idle);
}

/// Splits these bytes into pieces of these sizes, which repeat.
fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let (mut rest, mut cuts, mut all) = (bytes, cuts.iter().cycle(), Vec::new());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        all.push(piece.to_vec());
        rest = later;
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..crate::proptest_config() })]

    #[test]
    fn the_bytes_that_an_engine_reads_do_not_depend_on_how_they_arrive(
        messages in prop::collection::vec(prop::sample::select(vec![
            GET.to_owned(),
            format!("\r\n{GET}"),
            format!("{POST}hello"),
            format!("{CHUNKED}5;a\r\nhello\r\n0\r\n\r\n"),
            format!("{CHUNKED}0\r\nX: y\r\n\r\n"),
        ]), 1..6),
        cuts in prop::collection::vec(1usize..40, 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let got = Mutex::new(String::new());
        runtime.block_on(async {
            let (mut client, mut guard) = guarded();
            for piece in pieces(messages.concat().as_bytes(), &cuts) {
                send(&mut client, piece).await;
                // A message that ends in this piece lets the next one in.
                loop {
                    let (text, _) = read_now(&mut guard).unwrap();
                    got.lock().unwrap().push_str(&text);
                    if !matches!(guard.state, ReadState::Done { .. }) {
                        break;
                    }
                    guard.exchange_signal().finish_exchange();
                }
            }
        });
        let expected: String = messages.iter().map(|sent| sent.strip_prefix("\r\n").unwrap_or(sent)).collect();
        prop_assert_eq!(got.into_inner().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_write_that_blocks_or_fails_counts_as_an_attempt_and_releases_the_instance() {
    for room in [0, 1, 9] {
        for does_client_leave in [false, true] {
            let (mut client, server) = tokio::io::duplex(9);
            let mut guard = GuardedConnection::new(Box::new(server), ClientTimeouts::default());
            // The rest of an earlier response.
            guard.write_all(&b"123456789"[room..]).await.unwrap();
            let (delivery, outcome) = granted();
            guard.signal.track_delivery(delivery);
            if does_client_leave {
                drop(client);
                assert!(guard.write_all(b"HTTP/1.1 303 See Other").now_or_never().unwrap().is_err());
            } else {
                assert!(guard.write_all(b"HTTP/1.1 303 See Other").now_or_never().is_none(), "it blocks");
                let mut got = [0; 16];
                assert_eq!(client.read(&mut got).await.unwrap(), 9);
                drop(client);
            }
            drop(guard);
            assert_eq!(
                outcome(),
                Outcome::RELEASED,
                "room for {room} bytes, left before: {does_client_leave}"
            );
        }
    }
    let (delivery, outcome) = granted();
    let (client, guard) = guarded();
    guard.signal.track_delivery(delivery);
    drop(client);
    drop(guard);
    assert_eq!(outcome(), Outcome::CLAIM_UNDONE, "no write was attempted");
}
