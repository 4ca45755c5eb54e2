//! What pages hear without asking: the live socket and the ticking event stream.

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

use super::reply::{self, Reply};
use super::{App, page};
use crate::telemetry::task;

/// Largest message taken from a visitor, in bytes; a larger one closes the socket.
const MESSAGE_LIMIT: usize = 16 * 1024;
/// How often the server pings, which also keeps proxies from taking the socket for idle.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A socket from which nothing came for so long, not even a pong, is dead.
const SILENCE: Duration = Duration::from_secs(65);
/// Time for one message to be taken by the other side.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// Time for the other side to see the close frame before the connection goes.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// `GET /live`: upgrades to a WebSocket on which the server speaks first.
pub(super) fn socket(app: Arc<App>, mut request: Request<Incoming>) -> Reply {
    let Some(accept) = accept_key(request.method(), request.headers()) else {
        let refused = reply::text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket (version 13)\n");
        let refused = reply::with(refused, UPGRADE, "websocket");
        return reply::with(refused, SEC_WEBSOCKET_VERSION, "13");
    };
    let left = page::time_left(request.headers(), app.clock.now()).map(|left| left.millis());
    task::spawn("sample-app live socket", converse(app, hyper::upgrade::on(&mut request), left));
    let mut switching = reply::text(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    switching.headers_mut().clear();
    switching.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    let switching = reply::with(switching, CONNECTION, "Upgrade");
    reply::with(switching, UPGRADE, "websocket")
}

/// The value that proves the handshake was understood; `None` when the request is no handshake.
fn accept_key(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let names = |name: HeaderName, token: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    // Sixteen bytes in base64.
    let is_handshake = method == Method::GET
        && names(CONNECTION, "upgrade")
        && names(UPGRADE, "websocket")
        && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && key.len() == 24;
    is_handshake.then(|| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()).flatten()
}

/// One more visitor, until it is dropped.
struct Visit(Arc<App>);

impl Visit {
    fn begin(app: Arc<App>) -> Visit {
        app.visitors.send_modify(|n| *n += 1);
        Visit(app)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.visitors.send_modify(|n| *n -= 1);
    }
}

/// How a conversation ended.
enum End {
    /// The other side closed or is gone.
    Gone,
    /// The other side broke a rule and is told so.
    Refused(CloseCode, &'static str),
}

async fn converse(app: Arc<App>, upgrade: OnUpgrade, left_ms: Option<u64>) {
    let Ok(Ok(upgraded)) = timeout(SEND_DEADLINE, upgrade).await else { return };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let mut socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let visit = Visit::begin(app);
    let end = talk(&visit.0, &mut socket, left_ms).await;
    drop(visit);
    if let End::Refused(code, why) = end {
        close(socket, CloseFrame { code, reason: why.into() }).await;
    }
}

async fn talk(app: &App, socket: &mut Socket, left_ms: Option<u64>) -> End {
    // Subscribed before the hello is made: what the hello does not count yet will follow it.
    let mut news = app.keeper.follow();
    let mut visitors = app.visitors.subscribe();
    let hello = json!({
        "type": "hello", "id": app.settings.own_id(), "visitors": *visitors.borrow_and_update(),
        "last_id": app.keeper.book().last_id(), "left_ms": left_ms,
    });
    if !say(socket, &hello).await {
        return End::Gone;
    }
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_at = Instant::now() + SILENCE;
    loop {
        let heard = tokio::select! {
            message = socket.next() => {
                silent_at = Instant::now() + SILENCE;
                match message {
                    Some(Ok(Message::Text(text))) => say(socket, &respond(&text)).await,
                    Some(Ok(Message::Binary(_))) => return End::Refused(CloseCode::Unsupported, "text only"),
                    // The library answers pings and a close by itself.
                    Some(Ok(_)) => true,
                    Some(Err(WsError::Capacity(CapacityError::MessageTooLong { .. }))) => {
                        return End::Refused(CloseCode::Size, "a message may have 16 KiB");
                    }
                    Some(Err(_)) | None => false,
                }
            }
            entry = news.recv() => match entry {
                Ok(entry) => say(socket, &typed("entry", entry.view())).await,
                Err(RecvError::Lagged(_)) => say(socket, &json!({ "type": "behind" })).await,
                Err(RecvError::Closed) => false,
            },
            Ok(()) = visitors.changed() => {
                let n = *visitors.borrow_and_update();
                say(socket, &json!({ "type": "visitors", "n": n })).await
            }
            _ = pings.tick() => send(socket, Message::Ping(Bytes::new())).await,
            () = tokio::time::sleep_until(silent_at) => false,
        };
        if !heard {
            return End::Gone;
        }
    }
}

/// The answer to a visitor's message: `{"type":"echo","text":..}` comes back, all else is an error.
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

/// Whether the other side took the message in time.
async fn say(socket: &mut Socket, value: &Value) -> bool {
    send(socket, Message::text(value.to_string())).await
}

async fn send(socket: &mut Socket, message: Message) -> bool {
    matches!(timeout(SEND_DEADLINE, socket.send(message)).await, Ok(Ok(())))
}

/// Says why, then reads what is still under way: a connection closed over unread bytes is reset, and the reason lost.
async fn close(mut socket: Socket, frame: CloseFrame) {
    let farewell = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            let mut rest = socket.get_mut().take(1 << 20);
            let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        }
    };
    // Who does not listen to the reason is cut off.
    let _ = timeout(CLOSE_DEADLINE, farewell).await;
}

/// `GET /events`: an event `tick` at once and then each second, for as long as anybody reads.
pub(super) fn events(app: &App) -> Reply {
    let clock = app.clock.clone();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ticks = stream::unfold((seconds, clock, 0u64), |(mut seconds, clock, n)| async move {
        seconds.tick().await;
        let data = json!({ "n": n, "now": clock.now().rfc3339() });
        Some((Bytes::from(format!("event: tick\ndata: {data}\n\n")), (seconds, clock, n + 1)))
    });
    reply::with(
        reply::streamed("text/event-stream", ticks),
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
    fn the_handshake_of_the_standard_gets_the_standards_answer() {
        let accept = accept_key(&Method::GET, &handshake()).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_that_lacks_a_part_of_the_handshake_is_none() {
        for missing in [CONNECTION, UPGRADE, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY] {
            let mut headers = handshake();
            headers.remove(&missing);
            assert_eq!(accept_key(&Method::GET, &headers), None, "{missing}");
        }
        assert_eq!(accept_key(&Method::HEAD, &handshake()), None);
    }

    #[test]
    fn only_an_echo_is_understood() {
        assert_eq!(respond(r#"{"type":"echo","text":"hi"}"#), json!({ "type": "echo", "text": "hi" }));
        for odd in ["", "[]", "{}", r#"{"type":"echo"}"#, r#"{"type":"entry","text":"x"}"#] {
            assert_eq!(respond(odd)["type"], "error", "{odd}");
        }
    }
}
