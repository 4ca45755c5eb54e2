//! A terminal that was opened before the visitor came.

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::harness::MAX_WAIT;
use crate::support::harness::websocket::WebSocket;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "ttyd",
    image: "ttyd",
    shape: "tini, user `guest`, Bash in a terminal of tmux that is open at the bake, WebSocket",
    template: TemplateText::Lines(""),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("ttyd"));
    let mut terminal = open(visitor).await;
    // The variable is one of the shell that the entrypoint started, and the file is the visitor's.
    let line = format!("echo {} >>note; echo opened=$opened=$((6 * 7))-$(cat note)", visitor.word);
    let output = run(&mut terminal, &line, &format!("=42-{}", visitor.word)).await;
    let opened = between(&output, "opened=1", "=42-");
    assert!(opened.chars().all(|c| c.is_ascii_digit()), "{opened}");
}

/// The page that is loaded again shows the same terminal.
async fn shown(visitor: &Visitor) -> String {
    let mut terminal = open(visitor).await;
    run(&mut terminal, "cat note; echo $((6 * 7))-end", "42-end").await
}

/// Opens the terminal.
async fn open(visitor: &Visitor) -> WebSocket {
    let mut terminal = visitor.socket("/ws", "Sec-WebSocket-Protocol: tty\r\n").await;
    let size = r#"{"AuthToken":"","columns":120,"rows":30}"#;
    terminal.send(Message::binary(size.as_bytes().to_vec())).await.unwrap();
    terminal
}

/// Types a line, and returns what the terminal shows until it shows `end`.
async fn run(terminal: &mut WebSocket, line: &str, end: &str) -> String {
    terminal.send(Message::binary(format!("0{line}\r").into_bytes())).await.unwrap();
    let mut shown = String::new();
    let reading = async {
        while !shown.contains(end) {
            let message = terminal.next().await.expect("the terminal is open").expect("the terminal works");
            let bytes = message.into_data();
            // The other kinds are the window's title and its preferences.
            if let Some((b'0', output)) = bytes.split_first() {
                shown.push_str(&String::from_utf8_lossy(output));
            }
        }
    };
    let done = timeout(MAX_WAIT, reading).await;
    assert!(done.is_ok(), "the terminal does not show {end}: {shown:?}");
    shown
}
