//! WebSockets through the server.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::raw_connection::{Head, Io};
use super::{Demo, PATIENCE, Wire};

/// A WebSocket that is open.
pub type WebSocket = WebSocketStream<Box<dyn Io>>;

/// Asks for a WebSocket and returns the head of the answer.
pub async fn handshake(wire: &mut Wire, host: &str, path: &str, fields: &str) -> Head {
    wire.send(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    ))
    .await;
    wire.head().await
}

/// Opens the sample app's live socket on a connection. Nothing is read of it yet.
pub async fn open(mut wire: Wire, demo: &Demo) -> WebSocket {
    let head = handshake(&mut wire, &demo.host, "/live", "").await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let (stream, read) = wire.into_parts();
    WebSocketStream::from_partially_read(stream, read, Role::Client, None).await
}

/// The next message of this type; others are passed over.
pub async fn hear(socket: &mut WebSocket, kind: &str) -> Value {
    let hearing = async {
        loop {
            let message = socket.next().await.expect("the socket is open").expect("the socket is sound");
            if let Message::Text(text) = message {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == kind {
                    return value;
                }
            }
        }
    };
    timeout(PATIENCE, hearing).await.unwrap_or_else(|_| panic!("never heard: {kind}"))
}

/// Sends a text and asserts that it comes back.
pub async fn echo(socket: &mut WebSocket, text: &str) {
    let message = serde_json::json!({ "type": "echo", "text": text });
    socket.send(Message::text(message.to_string())).await.unwrap();
    assert_eq!(hear(socket, "echo").await["text"], text);
}

/// Waits for the socket to end, in whatever way.
pub async fn ended(socket: &mut WebSocket) {
    let ending = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(PATIENCE, ending).await.expect("the socket ends");
}
