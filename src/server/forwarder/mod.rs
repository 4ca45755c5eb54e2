//! The forwarder: carries a request of HTTP/1.x to an app of this node, and the answer back, on the guard.
//!
//! The guard has checked the head and frames the body. The forwarder checks the head and the framing of the answer as
//! strictly, and holds one piece of each body at a time. It consumes no byte of a request that it declines
//! ([`Outcome::NotMine`]): one for the API, for another node or from it, for a host that the route table does not know.
//!
//! | file | what it holds |
//! |---|---|
//! | `answer_head.rs` | the check of the head of an answer; pure |
//! | `fields.rs`, `edit.rs` | the heads that are sent; pure |
//! | `body.rs` | a body, read by one framing and written by another; pure |
//! | `failure.rs` | why an exchange failed |
//! | `upload.rs`, `download.rs` | the request to the app, and the answer to the client |
//! | `relay.rs` | both at the same time on one socket to the app, and their deadlines |

mod answer_head;
mod body;
mod download;
mod edit;
mod failure;
mod fields;
mod relay;
#[cfg(test)]
mod tests;
mod upload;

use std::future::poll_fn;

use http::{HeaderValue, header};
use tokio::io::AsyncWriteExt as _;

use self::download::Download;
use self::edit::{AnswerTo, read_request, write_request};
use self::failure::Failure;
pub(in crate::server) use self::relay::LazyTimer;
use self::relay::Relay;
use self::upload::Upload;
use super::http1_guard::head::{Framing, Http1Version};
use super::http1_guard::{GuardedConnection, HeadInfo};
use super::shutdown::StopSignal;
use super::wire_format::encode_response;
use crate::api::ApiError;
use crate::proxy::{LocalExchange, Proxy};
use crate::request::Destination;

/// Bytes that the head for the app may have beyond that of the client, without another allocation.
const ADDED_HEAD_BYTES: usize = 512;

/// What became of a request, and of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The exchange is over, and a further one may follow.
    Kept,
    /// The exchange is over, and the connection is closed.
    Closed,
    /// The request belongs to another engine. No byte of it was consumed.
    NotMine,
}

/// The forwarder of one server.
pub(super) struct Forwarder {
    proxy: Proxy,
    stop: StopSignal,
}

impl Forwarder {
    pub(super) fn new(proxy: Proxy, stop: StopSignal) -> Self {
        Self { proxy, stop }
    }

    /// Carries out the exchange of a head that is buffered in the guard and has this destination. `timer` serves one
    /// exchange after another.
    pub(super) async fn exchange(
        &self,
        client: &mut GuardedConnection,
        info: &HeadInfo,
        destination: Destination<'_>,
        timer: &mut LazyTimer,
    ) -> Outcome {
        let Some(route) = self.proxy.local_route(&destination) else { return Outcome::NotMine };
        let Some(request) = read_request(client.peek_head(), &info.head) else { return Outcome::NotMine };
        let context = self.proxy.context(destination, client.peer(), &request.headers);
        let (mut exchange, refusal) = self.proxy.begin_exchange(route, request, context);
        let to = AnswerTo {
            is_http11: info.head.version == Http1Version::Http11,
            keeps_connection: !info.head.is_last_exchange,
        };
        if let Some(refusal) = refusal {
            client.discard_head();
            let has_body = !matches!(info.head.framing, Framing::None | Framing::Length(0));
            let to = AnswerTo { keeps_connection: to.keeps_connection && !has_body, ..to };
            return respond(client, exchange, &refusal, to, has_body).await;
        }
        let mut head = Vec::with_capacity(info.head.len + ADDED_HEAD_BYTES);
        write_request(&mut head, client.peek_head(), &info.head, &exchange);
        client.discard_head();
        let mut upload = Upload::new(head, info.head.framing);
        let mut download = Download::new(exchange.is_head(), to, exchange.silence());
        let ended = self.carry(client, &mut exchange, &mut upload, &mut download, timer).await;
        match ended {
            Ok(()) => exchange.finish(download.begun_status().unwrap_or(0)),
            Err(Failure::Error(error)) if download.begun_status().is_none() => {
                let to = AnswerTo { keeps_connection: false, ..to };
                return respond(client, exchange, &error, to, !upload.is_read()).await;
            }
            Err(_) => {
                // The connection ends as it is, so that the answer does not look whole.
                exchange.finish(download.begun_status().unwrap_or(0));
                return Outcome::Closed;
            }
        }
        if download.keeps_connection() && upload.is_read() {
            return Outcome::Kept;
        }
        end(client, !upload.is_read()).await;
        Outcome::Closed
    }

    /// Sends the request on a kept socket or a new one, and relays the answer. A request that meets a kept socket whose
    /// app has ended it is sent once more, on a new one, if it may be.
    async fn carry(
        &self,
        client: &mut GuardedConnection,
        exchange: &mut LocalExchange,
        upload: &mut Upload,
        download: &mut Download,
        timer: &mut LazyTimer,
    ) -> Result<(), Failure> {
        let (read_timeout, write_timeout) = self.proxy.timeouts();
        let mut kept = exchange.take_socket();
        loop {
            let is_kept = kept.is_some();
            let mut app = match kept.take() {
                Some(socket) => socket,
                None => exchange.connect().await.map_err(Failure::Error)?,
            };
            download.note_progress();
            let mut relay = Relay {
                client: &mut *client,
                app: &mut app,
                exchange: &mut *exchange,
                upload: &mut *upload,
                download: &mut *download,
                timer: &mut *timer,
                stop: &self.stop,
                read_timeout,
                write_timeout,
            };
            match poll_fn(|cx| relay.poll(cx)).await {
                Ok(()) => {
                    if download.keeps_socket() && upload.is_done() {
                        exchange.keep_socket(app);
                    }
                    return Ok(());
                }
                Err(Failure::SocketEnded) if is_kept && exchange.is_idempotent() && upload.rewind() => {}
                Err(Failure::SocketEnded) => return Err(Failure::Error(ApiError::AppUnreachable)),
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// Sends the response for a failed exchange. `sends_more` says whether the client has not sent its whole request.
async fn respond(
    client: &mut GuardedConnection,
    exchange: LocalExchange,
    error: &ApiError,
    to: AnswerTo,
    sends_more: bool,
) -> Outcome {
    let mut response = exchange.error_response(error);
    if !to.keeps_connection {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if !to.is_http11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    let mut bytes = encode_response(response);
    if exchange.is_head() {
        // The response to HEAD has the length of the body that it does not have.
        let end = memchr::memmem::find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        bytes.truncate(end);
    }
    let is_sent = client.write_all(&bytes).await.is_ok() && client.flush().await.is_ok();
    exchange.finish(if is_sent { error.status().as_u16() } else { 0 });
    match is_sent {
        true if to.keeps_connection => return Outcome::Kept,
        true => end(client, sends_more).await,
        false => {}
    }
    Outcome::Closed
}

/// Ends a connection after its last answer, which must arrive.
async fn end(client: &mut GuardedConnection, sends_more: bool) {
    if sends_more {
        client.linger().await;
    } else {
        client.close().await;
    }
}
