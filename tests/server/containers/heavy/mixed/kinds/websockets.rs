//! WebSockets: texts and bytes come back in order, and the close is answered.

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::harness::MAX_WAIT;
use crate::support::harness::websocket::handshake;

use super::super::apps::Apps;
use super::super::random::Random;

pub(super) async fn echo(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let mut connection = apps.connect().await;
    let host = &apps.red[random.below(2)].host;
    let head = handshake(&mut connection, host, "/socket/echo", "").await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let (stream, read) = connection.into_parts();
    let mut socket = WebSocketStream::from_partially_read(stream, read, Role::Client, None).await;
    let messages: Vec<_> = (0..8)
        .map(|at| match at % 2 {
            0 => Message::text(format!("{} {}", random.token(), "ä".repeat(random.below(10_000)))),
            _ => {
                let length = 1 + random.below(70_000);
                Message::binary(random.bytes(length))
            }
        })
        .collect();
    let exchange = async {
        // Two at a time, so that both directions are busy at once.
        for pair in messages.chunks(2) {
            for message in pair {
                socket.send(message.clone()).await.unwrap();
            }
            for message in pair {
                let echo = socket.next().await.expect("the socket is open").expect("the socket works");
                assert!(echo == *message, "its own message comes back");
            }
        }
        socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "done".into() })).await.unwrap();
        let close = socket.next().await.expect("the close is answered").expect("the socket works");
        assert!(
            matches!(&close, Message::Close(Some(frame)) if frame.code == CloseCode::Normal),
            "{close:?}"
        );
        assert!(socket.next().await.is_none_or(|message| message.is_err()), "nothing after the close");
    };
    timeout(MAX_WAIT, exchange).await.expect("the socket answers");
}
