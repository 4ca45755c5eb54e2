//! The guard under the two engines themselves.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use tokio::io::DuplexStream;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A body that gives the turn on when hyper is done with it.
struct Answer {
    text: Option<Bytes>,
    turn: ExchangeSignal,
}

impl Body for Answer {
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

impl Drop for Answer {
    fn drop(&mut self) {
        self.turn.next();
    }
}

/// Answers each request with its path and its body (unless the path is `/unread`), a little later.
async fn echo(request: Request<Incoming>, turn: ExchangeSignal) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = match path.as_str() {
        "/unread" => Bytes::new(),
        _ => request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
    };
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    let text = [path.as_bytes(), b"=", &body, b";"].concat();
    Ok(Response::new(Answer { text: Some(text.into()), turn }))
}

/// The bodies of all answers to these bytes, sent in pieces of `piece` bytes, until hyper ends the connection.
async fn hyper_answers(bytes: &str, piece: usize) -> String {
    let (mut client, server) = tokio::io::duplex(piece);
    let guard = GuardedConnection::new(Box::new(server), Limits::default());
    let turn = guard.turn();
    let serve = http1::Builder::new()
        .serve_connection(TokioIo::new(guard), service_fn(move |request| echo(request, turn.clone())));
    let talk = async {
        let (mut read, mut write) = tokio::io::split(&mut client);
        let mut all = String::new();
        // Not all bytes may be taken: those after a refused head are of no use to anybody.
        let (_, got) = tokio::join!(write.write_all(bytes.as_bytes()), read.read_to_string(&mut all));
        got.unwrap();
        all
    };
    let (served, all) = timeout(DEADLINE, async { tokio::join!(serve, talk) }).await.unwrap();
    served.unwrap();
    // Each answer is its head, an empty line and a body that ends in a semicolon.
    all.split("\r\n\r\n")
        .filter_map(|part| part.split_once(';'))
        .map(|(body, _)| format!("{body};"))
        .collect()
}

#[tokio::test]
async fn hyper_answers_pipelined_requests_in_order_and_a_refused_one_last() {
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        \r\nPOST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n\
        GET /4 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for piece in [1, 7, 64, 4096] {
        assert_eq!(
            hyper_answers(requests, piece).await,
            "/1=;/2=hello;/3=abcde;/4=;/.refused/400=;",
            "pieces of {piece}"
        );
    }
}

#[tokio::test]
async fn hyper_goes_on_after_an_answer_that_did_not_wait_for_the_body() {
    let requests = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(hyper_answers(requests, 4096).await, "/unread=;/2=;");
}

/// One exchange in pingora's session, which answers with the path and the body.
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
    Some(*stream.into_any().downcast::<GuardedConnection>().expect("it was ours"))
}

async fn pingora_answers(mut client: DuplexStream, bytes: &str) -> String {
    let mut all = String::new();
    client.write_all(bytes.as_bytes()).await.unwrap();
    client.read_to_string(&mut all).await.unwrap();
    all.split("\r\n\r\n")
        .filter_map(|part| part.split_once(';'))
        .map(|(body, _)| format!("{body};"))
        .collect()
}

#[tokio::test]
async fn pingora_hands_the_guard_back_after_each_of_several_pipelined_requests() {
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n\
        GET /4 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /5 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let (client, server) = tokio::io::duplex(64 * 1024);
    let serve = async {
        let mut guard = GuardedConnection::new(Box::new(server), Limits::default());
        for _ in 0..4 {
            assert!(matches!(guard.next_head().await, Next::Head(_)));
            guard = pingora_exchange(guard).await.expect("the connection is kept");
        }
        assert!(matches!(guard.next_head().await, Next::Refused(Refusal::SeveralHosts)));
        guard.linger().await;
    };
    let both = async { tokio::join!(serve, pingora_answers(client, requests)) };
    let ((), answers) = timeout(DEADLINE, both).await.unwrap();
    assert_eq!(answers, "/1=;/2=hello;/3=abcde;/4=;");
}
