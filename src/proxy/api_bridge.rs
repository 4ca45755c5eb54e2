//! Responses that this program writes where Pingora holds the connection: those of the API over HTTP/2, and error
//! responses.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::request::Parts;
use http::{Response, header};
use pingora_core::{ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout_at};

use super::Proxy;
use crate::api::{ApiError, Body, MAX_BODY};
use crate::pool::Delivered;
use crate::request::{AckState, BytesWritten, RequestContext};

/// Time between two queries of the kernel whether a client's system has acknowledged a response.
const ACK_QUERY_INTERVAL: Duration = Duration::from_millis(5);
/// Longest time to wait for that acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

impl Proxy {
    /// Answers a request of HTTP/2 for the API with the same handler that hyper calls.
    ///
    /// # Errors
    /// The response cannot be written.
    pub(super) async fn answer_api(&self, session: &mut Session, context: &RequestContext<'_>) -> Result<()> {
        let head: Parts = (**session.req_header()).clone();
        // Held until the request was handled, since the handler has the body.
        let buffer = self.reserve_body(&head);
        let body = match &buffer {
            Some(_) => read_body(session, self.0.read_timeout).await,
            None => Err(ApiError::TooManyConnections),
        };
        if body.is_err() {
            session.set_keepalive(None);
        }
        let pass = self.0.api.enter();
        // Another process answers for the API by now.
        let body = if pass.is_some() { body } else { Err(ApiError::StoreUnavailable) };
        let response = self.0.api.handle(&head, body, context).await;
        send(session, response).await
    }
}

/// Reads the whole body of a request.
async fn read_body(session: &mut Session, read_timeout: Duration) -> Result<Bytes, ApiError> {
    let deadline = Instant::now() + read_timeout;
    let mut body = BytesMut::new();
    loop {
        let chunk = timeout_at(deadline, session.as_downstream_mut().read_request_body())
            .await
            .map_err(|_| ApiError::Timeout)?
            // Pingora's own timer is as long, and either may be the first.
            .map_err(|error| match error.etype() {
                ErrorType::ReadTimedout => ApiError::Timeout,
                _ => ApiError::MalformedBody,
            })?;
        let Some(chunk) = chunk else { return Ok(body.freeze()) };
        if body.len() + chunk.len() > MAX_BODY {
            return Err(ApiError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
}

/// Waits until the client's system has acknowledged or refused everything that was written, and reports to the pool if
/// the client did not get the response. Takes a moment, unless the client is gone.
async fn confirm_delivery(session: &Session, delivered: Delivered) {
    let Some(socket) = session.digest().and_then(|digest| digest.socket_digest.clone()) else { return };
    // This session does not own the connection. If the connection ends, another may get its descriptor's number, so the
    // socket's cookie is compared after each query.
    let Ok(cookie) = socket.socket_cookie() else { return };
    // Another task writes; this lets it do so.
    tokio::task::yield_now().await;
    let written = BytesWritten::so_far(&socket);
    let deadline = Instant::now() + ACK_TIMEOUT;
    loop {
        let state = AckState::of(&socket, written);
        if socket.socket_cookie().ok() != Some(cookie) {
            return;
        }
        match state {
            AckState::Pending if Instant::now() < deadline => tokio::time::sleep(ACK_QUERY_INTERVAL).await,
            AckState::Refused => return delivered.mark_lost(),
            AckState::Pending | AckState::AcknowledgedThenReset => return delivered.mark_doubtful(),
            AckState::Acknowledged => return,
        }
    }
}

/// Sends a response. If it assigns an instance, which it does over HTTP/2 only, reports how far the response got: a write
/// to a client that has left succeeds, so only the kernel's counters of acknowledged bytes show whether the client got it.
///
/// H2 refuses the head of a cancelled stream, and then writes no byte. Once it accepts a head, the connection's task may
/// write it at any time.
///
/// # Errors
/// The response cannot be written. Over HTTP/2, that includes a request that the client has cancelled.
pub(super) async fn send(session: &mut Session, mut response: Response<Body>) -> Result<()> {
    let delivery = response.body_mut().take_delivery();
    let (head, body) = response.into_parts();
    let says_close = head.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
    if says_close || session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    let mut head: ResponseHeader = head.into();
    head.remove_header(&header::CONNECTION);
    let downstream = session.as_downstream_mut();
    match body {
        Body::Full(bytes) | Body::WithDelivery(bytes, _) => {
            let bytes = bytes.unwrap_or_default();
            // A response to HEAD has the length of the body that it does not have.
            if !head.headers.contains_key(header::CONTENT_LENGTH) {
                head.set_content_length(bytes.len())?;
            }
            downstream.write_response_header(Box::new(head)).await?;
            let Some(mut delivery) = delivery else {
                return downstream.write_response_body(bytes, true).await;
            };
            delivery.mark_attempted();
            downstream.write_response_body(bytes, true).await?;
            if let Some(delivered) = delivery.complete() {
                confirm_delivery(session, delivered).await;
            }
            Ok(())
        }
        // Of the API, and so over HTTP/2.
        Body::Stream(mut chunks) => {
            downstream.write_response_header(Box::new(head)).await?;
            loop {
                tokio::select! {
                    chunk = chunks.next() => match chunk {
                        Some(chunk) => downstream.write_response_body(chunk, false).await?,
                        None => return downstream.write_response_body(Bytes::new(), true).await,
                    },
                    // Fails when the client leaves: a stream without a reader must end.
                    closed = downstream.read_body_or_idle(true) => {
                        closed?;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;
    use pingora_core::protocols::http::v2::server::{H2Accept, HttpSession};
    use pingora_core::protocols::http::{ServerSession, v2};
    use pingora_core::protocols::{Digest, Stream};

    use super::*;
    use crate::pool::Delivery;
    use crate::pool::delivery_probe::{Outcome, granted};
    use crate::telemetry::task;

    const HOST: &str = "instance-0123456789.localhost";

    /// Returns the response that assigns an instance: a redirect, which may have a body.
    fn assigning(body: &'static str, delivery: Delivery) -> Response<Body> {
        Response::builder()
            .status(StatusCode::SEE_OTHER)
            .header(header::LOCATION, format!("http://{HOST}/"))
            .body(Body::full(body).with_delivery(delivery))
            .unwrap()
    }

    #[tokio::test]
    async fn a_response_of_which_no_write_was_attempted_undoes_the_claim() {
        let (delivery, outcome) = granted();
        drop(assigning("body", delivery));
        assert_eq!(outcome(), Outcome::CLAIM_UNDONE);
    }

    /// An HTTP/2 request from a client whose window takes no byte of a body.
    struct Http2Exchange {
        session: Session,
        /// The server's side of the connection. Nothing is read or written unless it is polled.
        connection: h2::server::Connection<Stream, Bytes>,
        request: h2::SendStream<Bytes>,
        response: h2::client::ResponseFuture,
    }

    async fn http2_exchange() -> Http2Exchange {
        let (client, server) = tokio::io::duplex(65_536);
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(0);
        let (client, server) =
            tokio::join!(settings.handshake(client), v2::server::handshake(Box::new(server), None));
        let (mut send_request, client) = client.unwrap();
        task::spawn("test", client);
        let mut connection = server.unwrap();
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, request) = send_request.send_request(request, false).unwrap();
        let accepted = HttpSession::from_h2_conn(&mut connection, Arc::new(Digest::default())).await;
        let Some(H2Accept::Session(accepted)) = accepted.unwrap() else { panic!("no request") };
        // A session cannot be made for HTTP/2, so the stream of this one is replaced.
        let mut session = Session::new_h1(Box::new(tokio::io::duplex(1).0));
        *session.as_downstream_mut() = ServerSession::new_http2(accepted);
        Http2Exchange { session, connection, request, response }
    }

    #[tokio::test]
    async fn a_head_that_h2_accepted_counts_as_attempted_before_it_is_written() {
        let Http2Exchange { mut session, mut connection, response, request: _request } =
            http2_exchange().await;
        let (delivery, outcome) = granted();
        let mut sending = Box::pin(send(&mut session, assigning("body", delivery)));
        assert!(futures_util::poll!(&mut sending).is_pending(), "the client's window is closed");
        drop(sending);
        assert_eq!(outcome(), Outcome::RELEASED);
        // The connection's task writes the head, though its sender is gone.
        let head = tokio::select! {
            _ = connection.accept() => panic!("the connection ended"),
            head = response => head.unwrap(),
        };
        assert!(head.headers()[header::LOCATION].to_str().unwrap().contains(HOST));
    }

    #[tokio::test]
    async fn a_head_that_h2_refuses_because_the_stream_was_reset_undoes_the_claim() {
        let Http2Exchange { mut session, mut connection, mut request, response: _response } =
            http2_exchange().await;
        request.send_reset(h2::Reason::CANCEL);
        {
            let mut reset = Box::pin(session.as_downstream_mut().read_body_or_idle(true));
            let ended = tokio::select! {
                _ = connection.accept() => panic!("the connection ended"),
                ended = &mut reset => ended,
            };
            assert!(ended.is_err(), "the reset arrived");
        }
        let (delivery, outcome) = granted();
        send(&mut session, assigning("body", delivery)).await.unwrap_err();
        assert_eq!(outcome(), Outcome::CLAIM_UNDONE);
    }
}
