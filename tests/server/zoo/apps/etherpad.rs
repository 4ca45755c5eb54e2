//! A pad that is written by the API and read by a socket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::harness::MAX_WAIT;
use crate::support::harness::websocket::WebSocket;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "Etherpad",
    image: "etherpad",
    shape: "Node with socket.io, user `etherpad` of the group `root`, a volume, a health check",
    template: TemplateText::Lines(
        "warm_up = [\"/\", \"/p/note\"]\n[templates.APP.ready]\ntimeout = \"180s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("Pads of your own"));
    assert!(visitor.page("/p/note").await.contains("editorcontainer"));
    call(visitor, "createPad", "begin").await;

    let path = "/socket.io/?padId=note&EIO=3&transport=websocket";
    let mut socket = visitor.socket(path, "").await;
    let ready = json!(["message", {
        "component": "pad",
        "type": "CLIENT_READY",
        "padId": "note",
        "sessionID": null,
        "token": format!("t.{}", visitor.word),
        "protocolVersion": 2,
    }]);
    socket.send(Message::text(format!("42{ready}"))).await.unwrap();
    let variables = receive(&mut socket, |message| message["type"] == "CLIENT_VARS").await;
    let text = &variables["data"]["collab_client_vars"]["initialAttributedText"]["text"];
    assert_eq!(text, "begin\n", "{variables}");
    call(visitor, "appendText", &visitor.word).await;
    let changes = receive(&mut socket, |message| message["data"]["type"] == "NEW_CHANGES").await;
    let changes = changes["data"]["changeset"].as_str().unwrap();
    assert!(changes.contains(&visitor.word), "{changes}");
}

/// Calls a function of the API with a text.
async fn call(visitor: &Visitor, function: &str, text: &str) {
    let path = format!("/api/1.2.15/{function}?apikey=for-tests-only&padID=note&text={text}");
    let answer = visitor.request("GET", &path, &[], "").await;
    assert_eq!((answer.status, &answer.json()["code"]), (200, &json!(0)), "{}", answer.text());
}

/// Returns the next event's message that is wanted, and skips others.
async fn receive(socket: &mut WebSocket, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let receiving = async {
        loop {
            let frame = socket.next().await.expect("the socket is open").expect("the socket works");
            let Message::Text(text) = frame else { continue };
            let Some(event) = text.strip_prefix("42") else { continue };
            let event: Value = serde_json::from_str(event).unwrap();
            if is_wanted(&event[1]) {
                return event[1].clone();
            }
        }
    };
    timeout(MAX_WAIT, receiving).await.expect("the message arrives")
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/p/note/export/txt").await
}
