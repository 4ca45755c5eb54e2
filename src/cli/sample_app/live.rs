//! The live socket, and the stream of events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::app::SampleApp;
use super::page;
use super::response::{self, AppResponse};
use crate::telemetry::task;

/// The largest message of a visitor, in bytes. A larger one closes the socket.
const MAX_MESSAGE: usize = 16 * 1024;
/// The time between two pings, which also show proxies that the socket is in use.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a socket may send nothing, not even a pong, before it counts as dead.
const MAX_SILENCE: Duration = Duration::from_secs(65);
/// The time for one message to be sent.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// The time for the client to read the close frame before the connection is closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers `GET /live`: upgrades to a WebSocket on which the server sends the first message.
pub(super) fn socket(app: Arc<SampleApp>, mut request: Request<Incoming>) -> AppResponse {
    let Some(accept) = accept_key(request.method(), request.headers()) else {
        let refused = response::text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket (version 13)\n");
        let refused = response::with(refused, UPGRADE, "websocket");
        return response::with(refused, SEC_WEBSOCKET_VERSION, "13");
    };
    let left = page::time_left(request.headers(), app.clock.wall_now()).map(|left| left.millis());
    task::spawn("sample-app live socket", run_socket(app, hyper::upgrade::on(&mut request), left));
    let mut switching = response::text(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    switching.headers_mut().clear();
    switching.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    let switching = response::with(switching, CONNECTION, "Upgrade");
    response::with(switching, UPGRADE, "websocket")
}

/// Returns the value that proves that the handshake was understood; `None` when the request is no handshake.
fn accept_key(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let names = |name: HeaderName, token: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    // The key is 16 bytes in base64.
    let is_handshake = method == Method::GET
        && names(CONNECTION, "upgrade")
        && names(UPGRADE, "websocket")
        && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && key.len() == 24;
    is_handshake.then(|| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()).flatten()
}

/// Counts a visitor until it is dropped.
struct CountedVisitor(Arc<SampleApp>);

impl CountedVisitor {
    fn begin(app: Arc<SampleApp>) -> CountedVisitor {
        app.visitors.send_modify(|n| *n += 1);
        CountedVisitor(app)
    }
}

impl Drop for CountedVisitor {
    fn drop(&mut self) {
        self.0.visitors.send_modify(|n| *n -= 1);
    }
}

/// How a conversation ended.
enum ConversationEnd {
    /// The client closed the socket or disconnected.
    Gone,
    /// The client broke a rule, and gets a close frame with the reason.
    Refused(CloseCode, &'static str),
}

async fn run_socket(app: Arc<SampleApp>, upgrade: OnUpgrade, left_ms: Option<u64>) {
    let Ok(Ok(upgraded)) = timeout(SEND_DEADLINE, upgrade).await else { return };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let visitor = CountedVisitor::begin(app);
    let end = exchange(&visitor.0, &mut socket, left_ms).await;
    drop(visitor);
    if let ConversationEnd::Refused(code, why) = end {
        close(socket, CloseFrame { code, reason: why.into() }).await;
    }
}

async fn exchange(app: &SampleApp, socket: &mut Socket, left_ms: Option<u64>) -> ConversationEnd {
    // Subscribed before the hello is made, so that an entry that the hello does not count follows it.
    let mut new_entries = app.entries.subscribe();
    let mut visitors = app.visitors.subscribe();
    let hello = json!({
        "type": "hello", "id": app.settings.current_id(), "visitors": *visitors.borrow_and_update(),
        "last_id": app.entries.book().last_id(), "left_ms": left_ms,
    });
    if !send_json(socket, &hello).await {
        return ConversationEnd::Gone;
    }
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_at = Instant::now() + MAX_SILENCE;
    loop {
        let is_open = tokio::select! {
            message = socket.next() => {
                silent_at = Instant::now() + MAX_SILENCE;
                match message {
                    Some(Ok(Message::Text(text))) => send_json(socket, &respond(&text)).await,
                    Some(Ok(Message::Binary(_))) => return ConversationEnd::Refused(CloseCode::Unsupported, "text only"),
                    // The library answers pings and a close frame by itself.
                    Some(Ok(_)) => true,
                    Some(Err(WsError::Capacity(CapacityError::MessageTooLong { .. }))) => {
                        return ConversationEnd::Refused(CloseCode::Size, "a message may have 16 KiB");
                    }
                    Some(Err(_)) | None => false,
                }
            }
            entry = new_entries.recv() => match entry {
                Ok(entry) => send_json(socket, &typed("entry", entry.view())).await,
                Err(RecvError::Lagged(_)) => send_json(socket, &json!({ "type": "behind" })).await,
                Err(RecvError::Closed) => false,
            },
            Ok(()) = visitors.changed() => {
                let n = *visitors.borrow_and_update();
                send_json(socket, &json!({ "type": "visitors", "n": n })).await
            }
            _ = pings.tick() => send(socket, Message::Ping(Bytes::new())).await,
            () = tokio::time::sleep_until(silent_at) => false,
        };
        if !is_open {
            return ConversationEnd::Gone;
        }
    }
}

/// Returns the answer to a visitor's message: an echo of `{"type":"echo","text":..}`, an error for all else.
fn respond(text: &str) -> Value {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    match (message["type"].as_str(), &message["text"]) {
        (Some("echo"), Value::String(text)) => json!({ "type": "echo", "text": text }),
        _ => json!({ "type": "error", "error": "expected {\"type\":\"echo\",\"text\":\"...\"}" }),
    }
}

fn typed(kind: &str, mut value: Value) -> Value {
    value["type"] = kind.into();
    value
}

/// Sends a JSON value. Returns whether it was sent in time.
async fn send_json(socket: &mut Socket, value: &Value) -> bool {
    send(socket, Message::text(value.to_string())).await
}

async fn send(socket: &mut Socket, message: Message) -> bool {
    matches!(timeout(SEND_DEADLINE, socket.send(message)).await, Ok(Ok(())))
}

/// Sends the reason, then reads what the client has sent already: closing a connection with unread bytes resets it, and
/// the reason would be lost.
async fn close(mut socket: Socket, frame: CloseFrame) {
    let closing = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            let mut rest = socket.get_mut().take(1 << 20);
            let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        }
    };
    // At the deadline the connection is closed, whether or not the client has read the reason.
    let _ = timeout(CLOSE_DEADLINE, closing).await;
}

/// Answers `GET /events`: an event `tick` at once and then each second, until the client disconnects.
pub(super) fn events(app: &SampleApp) -> AppResponse {
    let clock = app.clock.clone();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ticks = stream::unfold((seconds, clock, 0u64), |(mut seconds, clock, n)| async move {
        seconds.tick().await;
        let data = json!({ "n": n, "now": clock.wall_now().rfc3339() });
        Some((Bytes::from(format!("event: tick\ndata: {data}\n\n")), (seconds, clock, n + 1)))
    });
    response::with(
        response::streamed("text/event-stream", ticks),
        HeaderName::from_static("x-accel-buffering"),
        "no",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> HeaderMap {
        HeaderMap::from_iter([
            (CONNECTION, HeaderValue::from_static("keep-alive, Upgrade")),
            (UPGRADE, HeaderValue::from_static("websocket")),
            (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            (SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")),
        ])
    }

    #[test]
    fn the_handshake_of_rfc_6455_gets_the_answer_of_rfc_6455() {
        let accept = accept_key(&Method::GET, &handshake()).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_without_a_part_of_the_handshake_is_refused() {
        for missing in [CONNECTION, UPGRADE, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY] {
            let mut headers = handshake();
            headers.remove(&missing);
            assert_eq!(accept_key(&Method::GET, &headers), None, "{missing}");
        }
        assert_eq!(accept_key(&Method::HEAD, &handshake()), None);
    }

    #[test]
    fn every_message_but_an_echo_is_an_error() {
        assert_eq!(respond(r#"{"type":"echo","text":"hi"}"#), json!({ "type": "echo", "text": "hi" }));
        for odd in ["", "[]", "{}", r#"{"type":"echo"}"#, r#"{"type":"entry","text":"x"}"#] {
            assert_eq!(respond(odd)["type"], "error", "{odd}");
        }
    }
}
