//! A flow that the visitor deploys and calls, and a WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::harness::{MAX_WAIT, eventually};
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "Node-RED",
    image: "node-red",
    shape: "one Node process with threads, WebSockets, flows in a file",
    template: TemplateText::Lines(
        r#"
warm_up = ["/settings", "/nodes", "/who"]
[templates.APP.ready]
path = "/"
body = "red/red.min.js"
timeout = "120s"
"#,
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let mut socket = visitor.socket("/socket/echo", "").await;
    socket.send(Message::text(visitor.word.clone())).await.unwrap();
    let echo = tokio::time::timeout(MAX_WAIT, socket.next()).await.expect("an answer").unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap().as_str(), visitor.word);

    let mut flows: Vec<serde_json::Value> = serde_json::from_str(&visitor.page("/flows").await).unwrap();
    let node = |id: &str, kind: &str, wires: &[&str]| json!({"id": format!("zoo-{id}"), "type": kind, "z": "zoo", "name": id, "x": 100, "y": 100, "wires": [wires]});
    let mut input = node("in", "http in", &["zoo-word"]);
    input["url"] = "/zoo".into();
    input["method"] = "get".into();
    let mut function = node("word", "function", &["zoo-out"]);
    function["func"] = format!("msg.payload = '{}';\nreturn msg;", visitor.word).into();
    function["outputs"] = 1.into();
    flows.extend([json!({"id": "zoo", "type": "tab", "label": "Zoo"}), input, function]);
    flows.push(node("out", "http response", &[]));
    let deployed = visitor.send_json("POST", "/flows", &json!(flows)).await;
    assert_eq!(deployed.status, 204, "{}", deployed.text());
    // Node-RED answers before the flows have started.
    eventually("the flow answers", async || {
        let answer = visitor.request("GET", "/zoo", &[], "").await;
        (answer.status == 200 && answer.text() == visitor.word).then_some(())
    })
    .await;
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/flows").await + &visitor.page("/zoo").await
}
