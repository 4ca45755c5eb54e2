//! Notebooks: a terminal and a kernel, each on a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::harness::websocket::WebSocket;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

/// The longest time until a program in the instance has started and answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

pub(in crate::zoo) const APP: App = App {
    name: "JupyterLab",
    image: "jupyter",
    shape: "`tini`, start scripts, user `jovyan` with group `users`; terminals and kernels",
    template: TemplateText::Lines(
        "admin_path = \"/lab\"\nwarm_up = [\"/lab\", \"/api/contents\", \"/api/kernelspecs\"]\n\
         [templates.APP.ready]\npath = \"/api\"\nbody = \"version\"\ntimeout = \"180s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/lab").await.contains("jupyter-config-data"));
    let name = &visitor.word;

    let terminal = create(visitor, "/api/terminals", &json!({})).await;
    let path = format!("/terminals/websocket/{}", terminal["name"].as_str().unwrap());
    let mut socket = visitor.socket(&path, "").await;
    // The terminal shows what is typed, so the awaited text is not in it.
    let line = format!("stty size >/dev/null && echo \"$(id -un):$(id -gn)\" | tee work/{name}.txt\r");
    send(&mut socket, &json!(["stdin", line])).await;
    receive(&mut socket, |message| {
        let is_shown = message[0] == "stdout" && message[1].as_str()?.contains("jovyan:users");
        is_shown.then_some(())
    })
    .await;

    let kernel = create(visitor, "/api/kernels", &json!({ "name": "python3" })).await;
    let path = format!("/api/kernels/{}/channels?session_id={name}", kernel["id"].as_str().unwrap());
    let mut socket = visitor.socket(&path, "").await;
    let code = format!("lines = open('work/{name}.txt').read().split()\nsum(range(1000)), lines");
    let header = json!({
        "msg_id": name, "msg_type": "execute_request", "session": name, "username": "", "version": "5.3",
        "date": "2000-01-01T00:00:00Z",
    });
    let content = json!({
        "code": code, "silent": false, "store_history": true, "user_expressions": {}, "allow_stdin": false,
        "stop_on_error": true,
    });
    let request = json!({
        "channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": [],
    });
    send(&mut socket, &request).await;
    let result = receive(&mut socket, |message| {
        assert_ne!(message["msg_type"], "error", "{message}");
        let data = &message["content"]["data"]["text/plain"];
        (message["msg_type"] == "execute_result").then(|| data.as_str().unwrap().to_owned())
    });
    assert_eq!(result.await, "(499500, ['jovyan:users'])");
}

/// Asks the server to create something, with the token of the cookie that its pages set.
async fn create(visitor: &Visitor, path: &str, value: &Value) -> Value {
    let cookies = visitor.cookies();
    let token = cookies.split("; ").find_map(|cookie| cookie.strip_prefix("_xsrf=")).unwrap();
    let headers = [("content-type", "application/json"), ("x-xsrftoken", token)];
    let answer = visitor.request("POST", path, &headers, &value.to_string()).await;
    assert!([200, 201].contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    answer.json()
}

async fn send(socket: &mut WebSocket, value: &Value) {
    socket.send(Message::text(value.to_string())).await.unwrap();
}

/// Reads messages until one is what is awaited.
async fn receive<T>(socket: &mut WebSocket, find: impl Fn(&Value) -> Option<T>) -> T {
    let mut seen = Vec::new();
    let finding = async {
        loop {
            let message = socket.next().await.expect("the socket is open").expect("the socket works");
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
            if let Some(found) = find(&value) {
                return found;
            }
            seen.push(value);
        }
    };
    let found = timeout(ANSWER_TIMEOUT, finding).await;
    found.unwrap_or_else(|_| panic!("the awaited message is not among {seen:#?}"))
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/api/contents/work").await
}
