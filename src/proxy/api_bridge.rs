//! Requests that we answer ourselves on a connection that Pingora holds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Response, Version, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout_at};

use super::{Proxy, client_of};
use crate::api::{ApiError, Body, MAX_BODY};
use crate::cluster::Provenance;
use crate::pool::Delivered;
use crate::request::{AckState, Written};

/// How often the kernel is asked whether a client took its answer, and for how long.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_secs(2);

impl Proxy {
    /// Runs the API's handler, the same that hyper runs.
    pub(super) async fn answer_api(&self, session: &mut Session, arrival: &Provenance) -> Result<()> {
        let (peer, secure) = client_of(session);
        let mut parts: http::request::Parts = (**session.req_header()).clone();
        tell(&mut parts, arrival);
        let body = read_body(session, self.0.read_timeout).await;
        if body.is_err() {
            session.set_keepalive(None);
        }
        let answer = self.0.api.handle(&parts, body, peer, secure).await;
        send(session, answer).await
    }
}

/// Tells the API how a request came here, if not from outside.
pub(super) fn tell(parts: &mut http::request::Parts, arrival: &Provenance) {
    if *arrival != Provenance::FromOutside {
        parts.extensions.insert(arrival.clone());
    }
}

/// The whole body of a request.
async fn read_body(session: &mut Session, within: Duration) -> Result<Bytes, ApiError> {
    let deadline = Instant::now() + within;
    let head = session.req_header();
    let expects =
        head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects && head.version == Version::HTTP_11 {
        // Else the client waits for it, and the body comes late or not at all.
        session.write_continue_response().await.map_err(|_| ApiError::MalformedHead)?;
    }
    let mut whole = BytesMut::new();
    loop {
        let piece = timeout_at(deadline, session.as_downstream_mut().read_request_body())
            .await
            .map_err(|_| ApiError::Timeout)?
            .map_err(|_| ApiError::MalformedHead)?;
        let Some(piece) = piece else { return Ok(whole.freeze()) };
        if whole.len() + piece.len() > MAX_BODY {
            return Err(ApiError::TooLarge);
        }
        whole.extend_from_slice(&piece);
    }
}

/// Waits until the client's kernel has said whether it took all that was written; a moment, unless the client is gone.
async fn see_it_taken(session: &Session, delivered: Delivered) {
    let Some(socket) = session.digest().and_then(|digest| digest.socket_digest.clone()) else { return };
    // Over HTTP/2 the connection is not ours, and may end any moment; then its number may be another's.
    let Ok(cookie) = socket.socket_cookie() else { return };
    // Over HTTP/2 another task writes.
    tokio::task::yield_now().await;
    let written = Written::so_far(&socket);
    let until = Instant::now() + LONGEST_LOOK;
    loop {
        let receipt = AckState::of(&socket, written);
        if socket.socket_cookie().ok() != Some(cookie) {
            return;
        }
        match receipt {
            AckState::Open if Instant::now() < until => tokio::time::sleep(LOOK).await,
            AckState::Refused => return delivered.lost(),
            AckState::Open | AckState::Dropped => return delivered.doubted(),
            AckState::Taken => return,
        }
    }
}

/// Sends an answer of ours.
pub(super) async fn send(session: &mut Session, mut answer: Response<Body>) -> Result<()> {
    let delivery = answer.body_mut().take_delivery();
    let (head, body) = answer.into_parts();
    let version = session.req_header().version;
    let has_chunks = version == Version::HTTP_11;
    let ends_with_connection = version == Version::HTTP_10 && matches!(body, Body::Stream(_));
    let closing = head.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
    if closing || ends_with_connection || session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    let mut head: ResponseHeader = head.into();
    head.remove_header(&header::CONNECTION);
    let downstream = session.as_downstream_mut();
    match body {
        Body::Full(bytes) | Body::Handing(bytes, _) => {
            let bytes = bytes.unwrap_or_default();
            // An answer to HEAD says the length of the body that it does not have.
            if !head.headers.contains_key(header::CONTENT_LENGTH) {
                head.set_content_length(bytes.len())?;
            }
            // Over HTTP/2, an error if the client has cancelled its request.
            downstream.write_response_header(Box::new(head)).await?;
            let Some(mut delivery) = delivery else {
                return downstream.write_response_body(bytes, true).await;
            };
            delivery.begun();
            downstream.write_response_body(bytes, true).await?;
            if let Some(delivered) = delivery.done() {
                see_it_taken(session, delivered).await;
            }
            Ok(())
        }
        Body::Stream(mut pieces) => {
            if has_chunks {
                head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
            downstream.write_response_header(Box::new(head)).await?;
            loop {
                tokio::select! {
                    piece = pieces.next() => match piece {
                        Some(piece) => downstream.write_response_body(piece, false).await?,
                        None => return downstream.write_response_body(Bytes::new(), true).await,
                    },
                    // Ends with an error when the client leaves; a stream nobody reads must not go on.
                    gone = downstream.read_body_or_idle(true) => {
                        gone?;
                    }
                }
            }
        }
    }
}
