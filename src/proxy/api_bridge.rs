//! Responses that this program writes on a connection that Pingora holds: those of the API, and error responses.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::request::Parts;
use http::{Response, Version, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout_at};

use super::Proxy;
use super::headers::RequestSource;
use super::provenance::set_provenance;
use crate::api::{ApiError, Body, MAX_BODY};
use crate::pool::Delivered;
use crate::request::{AckState, BytesWritten};

/// Time between two queries of the kernel whether a client's system has acknowledged a response.
const ACK_QUERY_INTERVAL: Duration = Duration::from_millis(5);
/// Longest time to wait for that acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

impl Proxy {
    /// Answers a request for the API with the same handler that hyper calls.
    ///
    /// # Errors
    /// The response cannot be written.
    pub(super) async fn answer_api(&self, session: &mut Session, source: RequestSource<'_>) -> Result<()> {
        let mut head: Parts = (**session.req_header()).clone();
        set_provenance(&mut head, source.provenance);
        let body = read_body(session, self.0.read_timeout).await;
        if body.is_err() {
            session.set_keepalive(None);
        }
        let response = self.0.api.handle(&head, body, source.peer, source.is_secure).await;
        send(session, response).await
    }
}

/// Reads the whole body of a request.
async fn read_body(session: &mut Session, read_timeout: Duration) -> Result<Bytes, ApiError> {
    let deadline = Instant::now() + read_timeout;
    let head = session.req_header();
    let expects_continue =
        head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects_continue && head.version == Version::HTTP_11 {
        // Without it the client waits, and the body arrives late or not at all.
        session.write_continue_response().await.map_err(|_| ApiError::MalformedHead)?;
    }
    let mut body = BytesMut::new();
    loop {
        let chunk = timeout_at(deadline, session.as_downstream_mut().read_request_body())
            .await
            .map_err(|_| ApiError::Timeout)?
            .map_err(|_| ApiError::MalformedHead)?;
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
    // Over HTTP/2 this session does not own the connection. If the connection ends, another may get its descriptor's
    // number, so the socket's cookie is compared after each query.
    let Ok(cookie) = socket.socket_cookie() else { return };
    // Over HTTP/2 another task writes; this lets it do so.
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

/// Sends a response. If it assigns an instance, reports how far the response got: a write to a client that has left
/// succeeds, so only the kernel's counters of acknowledged bytes show whether the client got it.
///
/// # Errors
/// The response cannot be written. Over HTTP/2, that includes a request that the client has cancelled.
pub(super) async fn send(session: &mut Session, mut response: Response<Body>) -> Result<()> {
    let delivery = response.body_mut().take_delivery();
    let (head, body) = response.into_parts();
    let version = session.req_header().version;
    let may_chunk = version == Version::HTTP_11;
    let ends_with_connection = version == Version::HTTP_10 && matches!(body, Body::Stream(_));
    let says_close = head.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
    if says_close || ends_with_connection || session.is_process_shutting_down() {
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
            delivery.mark_begun();
            downstream.write_response_body(bytes, true).await?;
            if let Some(delivered) = delivery.complete() {
                confirm_delivery(session, delivered).await;
            }
            Ok(())
        }
        Body::Stream(mut chunks) => {
            if may_chunk {
                head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
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
