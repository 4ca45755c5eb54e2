//! The guard in front of the real hyper and the real Pingora.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A body that reports the end of the exchange when hyper drops it.
struct ReportingBody {
    text: Option<Bytes>,
    signal: ExchangeSignal,
}

impl Body for ReportingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.as_ref().map_or(0, |text| text.len() as u64))
    }
}

impl Drop for ReportingBody {
    fn drop(&mut self) {
        self.signal.finish_exchange();
    }
}

/// Answers a request, a little later, with its path and its body. A request for `/unread` is answered without its body.
async fn echo(
    request: Request<Incoming>,
    signal: ExchangeSignal,
) -> Result<Response<ReportingBody>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = match path.as_str() {
        "/unread" => Bytes::new(),
        _ => request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
    };
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    let text = [path.as_bytes(), b"=", &body, b";"].concat();
    Ok(Response::new(ReportingBody { text: Some(text.into()), signal }))
}

/// Serves the connection with hyper for as long as hyper gives it back. Returns how often that was, and the refusal of
/// the head after which there was no more, if one was refused.
async fn serve_with_hyper(mut guard: GuardedConnection, filter: HeadFilter) -> (usize, Option<Refusal>) {
    let mut runs = 0;
    loop {
        match guard.next_head().await {
            NextHead::Head(_) => runs += 1,
            NextHead::Refused(refusal) => {
                guard.linger().await;
                return (runs, Some(refusal));
            }
            NextHead::Http2 | NextHead::Closed => return (runs, None),
        }
        guard.lend(filter.clone());
        let signal = guard.exchange_signal();
        let service = service_fn(move |request| echo(request, signal.clone()));
        let mut serving = http1::Builder::new().serve_connection(TokioIo::new(guard), service);
        (&mut serving).await.unwrap();
        let parts = serving.into_parts();
        assert!(parts.read_buf.is_empty(), "hyper gets one message at a time");
        guard = parts.io.into_inner();
        if !guard.is_released() {
            return (runs, None);
        }
    }
}

/// Sends these bytes in pieces of `piece` bytes and returns the bodies of all responses until hyper ends the
/// connection or a head is refused.
async fn hyper_responses(bytes: &str, piece: usize) -> (String, Option<Refusal>) {
    let (bodies, (_, refusal)) = hyper_runs(bytes, piece, Arc::new(|_| true)).await;
    (bodies, refusal)
}

/// Does the same with an engine that gets the heads that pass a filter before it gives the connection back.
async fn hyper_runs(bytes: &str, piece: usize, filter: HeadFilter) -> (String, (usize, Option<Refusal>)) {
    let (mut client, server) = tokio::io::duplex(piece);
    let guard = GuardedConnection::new(Box::new(server), ClientTimeouts::default());
    let serve = serve_with_hyper(guard, filter);
    let client_side = async {
        let (mut read, mut write) = tokio::io::split(&mut client);
        let mut all = String::new();
        // Not all bytes may be taken: those after a refused head are discarded.
        let send = async {
            write.write_all(bytes.as_bytes()).await?;
            write.shutdown().await
        };
        let (_, got) = tokio::join!(send, read.read_to_string(&mut all));
        got.unwrap();
        all
    };
    let (served, all) = timeout(DEADLINE, async { tokio::join!(serve, client_side) }).await.unwrap();
    // Each response is its head, an empty line and a body that ends in a semicolon.
    let bodies = all
        .split("\r\n\r\n")
        .filter_map(|part| part.split_once(';'))
        .map(|(body, _)| format!("{body};"))
        .collect();
    (bodies, served)
}

#[tokio::test]
async fn hyper_answers_pipelined_requests_in_order_and_a_refused_one_last() {
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        \r\nPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n\
        GET /4 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for piece in [1, 7, 64, 4096] {
        let expected = ("/1=;/2=hello;/3=abcde;/4=;".to_owned(), Some(Refusal::LengthAndEncoding));
        assert_eq!(hyper_responses(requests, piece).await, expected, "pieces of {piece}");
    }
}

#[tokio::test]
async fn hyper_gives_the_connection_back_before_a_head_of_another_engine_and_loses_no_byte() {
    let requests: String = ["a", "a", "b", "a", "b", "b"]
        .into_iter()
        .map(|host| format!("POST /{host} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello"))
        .collect();
    for piece in [1, 7, 64, 4096] {
        // The heads for `b` begin a run each, and the run goes on with those for `a`.
        let runs = hyper_runs(&requests, piece, Arc::new(|host| host == "a")).await;
        let bodies = "/a=hello;/a=hello;/b=hello;/a=hello;/b=hello;/b=hello;".to_owned();
        assert_eq!(runs, (bodies, (4, None)), "pieces of {piece}");
    }
}

#[tokio::test]
async fn hyper_goes_on_after_a_response_that_did_not_wait_for_the_body() {
    let requests = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(hyper_responses(requests, 4096).await, ("/unread=;/2=;".to_owned(), None));
}

/// Whether Pingora takes a head for a request.
async fn is_accepted_by_pingora(head: &str) -> bool {
    let (mut client, server) = tokio::io::duplex(4096);
    client.write_all(head.as_bytes()).await.unwrap();
    let mut session = ServerSession::new_http1(Box::new(server));
    timeout(DEADLINE, session.read_request()).await.unwrap().is_ok_and(|is_request| is_request)
}

/// An engine would answer what it does not accept by itself.
#[tokio::test]
async fn both_engines_accept_every_target_that_the_guard_accepts() {
    let mut accepted = 0;
    for c in (0x21..0x7f_u8).map(char::from) {
        for target in [
            format!("/{c}"),
            format!("/a{c}b/"),
            format!("/?{c}"),
            format!("/a?b={c}{c}"),
            format!("/%{c}{c}"),
            format!("http://a/{c}"),
            format!("http://a?{c}"),
            format!("{c}"),
        ] {
            let head = format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            if super::super::head::check(head.as_bytes()).is_err() {
                continue;
            }
            accepted += 1;
            assert!(is_accepted_by_pingora(&head).await, "{target}");
            let (answers, refusal) = hyper_responses(&head, 4096).await;
            assert!(!answers.is_empty() && refusal.is_none(), "{target}: {answers}");
        }
    }
    assert!(accepted > 300, "{accepted} targets");
}

/// Serves one exchange in a session of Pingora, which answers with the path and the body.
async fn pingora_exchange(guard: GuardedConnection) -> Option<GuardedConnection> {
    let mut session = ServerSession::new_http1(Box::new(guard));
    session.set_keepalive(Some(60));
    assert!(session.read_request().await.unwrap());
    let mut text = format!("{}=", session.req_header().uri.path()).into_bytes();
    while let Some(part) = session.read_request_body().await.unwrap() {
        text.extend_from_slice(&part);
    }
    text.push(b';');
    let mut head = ResponseHeader::build(200, None).unwrap();
    head.insert_header("Content-Length", text.len()).unwrap();
    session.write_response_header(Box::new(head)).await.unwrap();
    session.write_response_body(text.into(), true).await.unwrap();
    let stream = session.finish().await.unwrap()?.into_parts().0;
    Some(
        *stream
            .into_any()
            .downcast::<GuardedConnection>()
            .expect("the session was made of a guarded connection"),
    )
}

async fn pingora_responses(mut client: DuplexStream, bytes: &str) -> String {
    let mut all = String::new();
    client.write_all(bytes.as_bytes()).await.unwrap();
    client.read_to_string(&mut all).await.unwrap();
    all.split("\r\n\r\n")
        .filter_map(|part| part.split_once(';'))
        .map(|(body, _)| format!("{body};"))
        .collect()
}

#[tokio::test]
async fn pingora_returns_the_guard_after_each_of_several_pipelined_requests() {
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n\
        GET /4 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /5 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let (client, server) = tokio::io::duplex(64 * 1024);
    let serve = async {
        let mut guard = GuardedConnection::new(Box::new(server), ClientTimeouts::default());
        for _ in 0..4 {
            assert!(matches!(guard.next_head().await, NextHead::Head(_)));
            guard = pingora_exchange(guard).await.expect("the connection is kept");
        }
        assert!(matches!(guard.next_head().await, NextHead::Refused(Refusal::SeveralHosts)));
        guard.linger().await;
    };
    let both = async { tokio::join!(serve, pingora_responses(client, requests)) };
    let ((), bodies) = timeout(DEADLINE, both).await.unwrap();
    assert_eq!(bodies, "/1=;/2=hello;/3=abcde;/4=;");
}
