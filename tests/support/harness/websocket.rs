//! A WebSocket client.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::raw_connection::{Head, Transport};
use super::{AcquiredInstance, MAX_WAIT, RawConnection};

/// An open WebSocket.
pub type WebSocket = WebSocketStream<Box<dyn Transport>>;

/// Sends the handshake of a WebSocket and returns the head of the answer.
pub async fn handshake(connection: &mut RawConnection, host: &str, path: &str, fields: &str) -> Head {
    connection
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
        ))
        .await;
    connection.read_head().await
}

/// Opens the sample app's live socket on a connection. Reads no message of it.
pub async fn open(mut connection: RawConnection, instance: &AcquiredInstance) -> WebSocket {
    let head = handshake(&mut connection, &instance.host, "/live", "").await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let (stream, read) = connection.into_parts();
    WebSocketStream::from_partially_read(stream, read, Role::Client, None).await
}

/// Returns the next message of this type and skips others.
pub async fn receive(socket: &mut WebSocket, kind: &str) -> Value {
    let receiving = async {
        loop {
            let message = socket.next().await.expect("the socket is open").expect("the socket works");
            if let Message::Text(text) = message {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == kind {
                    return value;
                }
            }
        }
    };
    timeout(MAX_WAIT, receiving).await.unwrap_or_else(|_| panic!("timed out: a message of type {kind}"))
}

/// Sends a text and asserts that the app sends it back.
pub async fn echo(socket: &mut WebSocket, text: &str) {
    let message = serde_json::json!({ "type": "echo", "text": text });
    socket.send(Message::text(message.to_string())).await.unwrap();
    assert_eq!(receive(socket, "echo").await["text"], text);
}

/// Waits until the socket is closed or its connection ends.
pub async fn wait_for_close(socket: &mut WebSocket) {
    let ending = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(MAX_WAIT, ending).await.expect("the socket is closed");
}
