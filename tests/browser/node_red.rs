//! A real app behind the proxy: two visitors with a Node-RED each, and its editor's WebSocket.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::chromium::Browser;
use crate::support::harness::{AcquiredInstance, Server, get};
use crate::{all_installed, skipped, target};

/// The longest time for starting two instances of Node-RED or loading an editor on a busy machine.
const START: Duration = Duration::from_secs(120);
const INSTALL: Duration = Duration::from_secs(240);
/// How long the sockets must stay open, in milliseconds: as long as the shortest idle timeouts on the path.
const OPEN_MS: u32 = 60_000;

/// Records the state of each socket that the page opens.
const SOCKET_RECORDER: &str = "window.sockets = [];
window.WebSocket = class extends window.WebSocket {
  constructor(...how) {
    super(...how);
    const record = { socket: this, opened: null, closed: null, received: 0 };
    window.sockets.push(record);
    this.addEventListener('open', () => { record.opened = performance.now(); });
    this.addEventListener('close', (event) => { record.closed = event.code; });
    this.addEventListener('message', () => { record.received += 1; });
  }
};";

/// A flow that answers `/hello`, and one that shows injected messages in the editor.
const FLOW: &str = r#"(() => {
  const z = RED.workspaces.active();
  RED.nodes.import([
    { id: "aaaaaaaaaaaaaa01", type: "http in", z, name: "", url: "/hello", method: "get", upload: false, x: 150, y: 80, wires: [["aaaaaaaaaaaaaa02"]] },
    { id: "aaaaaaaaaaaaaa02", type: "template", z, name: "", field: "payload", fieldType: "msg", format: "text", syntax: "plain", template: "Ada was here", output: "str", x: 350, y: 80, wires: [["aaaaaaaaaaaaaa03"]] },
    { id: "aaaaaaaaaaaaaa03", type: "http response", z, name: "", statusCode: "", headers: {}, x: 550, y: 80, wires: [] },
    { id: "aaaaaaaaaaaaaa04", type: "inject", z, name: "", props: [{ p: "payload" }], repeat: "", once: false, topic: "", payload: "Sent to the editor", payloadType: "str", x: 150, y: 160, wires: [["aaaaaaaaaaaaaa05"]] },
    { id: "aaaaaaaaaaaaaa05", type: "debug", z, name: "", active: true, tosidebar: true, complete: "payload", targetType: "msg", x: 350, y: 160, wires: [] },
  ]);
  RED.nodes.dirty(true);
  RED.view.redraw(true);
  return true;
})()"#;

/// Installs Node-RED as the template file says, once for all runs, beside a copy of the template. Returns the path of
/// that copy, or `None` if it cannot be installed.
async fn installed() -> Option<PathBuf> {
    if !all_installed(&["node", "npm", "chromium", "chromedriver"]) {
        return None;
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/templates");
    let folder = target("node-red");
    std::fs::create_dir_all(folder.join("node-red")).unwrap();
    for file in ["node-red.toml", "node-red/settings.js"] {
        std::fs::copy(shipped.join(file), folder.join(file)).unwrap();
    }
    let file = folder.join("node-red.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let line =
        text.lines().find_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix("npm ")).unwrap();
    let done = folder.join("installed");
    if std::fs::read_to_string(&done).is_ok_and(|done| done == line) {
        return Some(file);
    }
    // The remains of an interrupted installation cannot be continued.
    let _ = std::fs::remove_dir_all(folder.join("apps"));
    let mut npm = Command::new("npm");
    npm.args(line.split_whitespace())
        .args(["--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"])
        .current_dir(&folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(INSTALL, npm.output()).await.expect("npm ends").unwrap();
    if !output.status.success() {
        skipped(&format!("node-red is missing: {}", String::from_utf8_lossy(&output.stderr)));
        return None;
    }
    std::fs::write(&done, line).unwrap();
    Some(file)
}

/// Opens an instance's editor in the current tab and waits until it is usable and connected.
async fn open_editor(browser: &Browser, instance: &AcquiredInstance) {
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": SOCKET_RECORDER})).await;
    browser.open(&instance.url).await;
    browser.until_within(START, "window.RED && RED.workspaces && RED.workspaces.active()").await;
    browser.until_within(START, "document.querySelector('.red-ui-palette-node')").await;
    browser
        .until_within(START, "window.sockets.length && sockets[0].opened !== null && sockets[0].received")
        .await;
}

/// Asserts that the editor has one open socket and returns how many messages that has received.
async fn socket(browser: &Browser) -> Value {
    let records = "sockets.map(s => [new URL(s.socket.url).pathname, s.socket.readyState, s.closed])";
    let records = browser.value(records).await;
    assert_eq!(records, json!([["/comms", 1, null]]), "one socket, open, never closed");
    browser.value("sockets[0].received").await
}

#[tokio::test]
async fn two_visitors_have_a_node_red_each_with_flows_and_sockets_of_its_own() {
    let Some(file) = installed().await else { return };
    let Some(browser) = Browser::start().await else { return };
    let sizes = [("POOL_TARGET_SIZE", "2"), ("POOL_MAX_SIZE", "2")];
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    let server = Server::start_with(&sizes, &arguments).await.full_within(START).await;
    let (ada, bob) = (server.acquire().await, server.acquire().await);

    let first = browser.client().window().await.unwrap();
    open_editor(&browser, &ada).await;
    let second = browser.client().new_window(true).await.unwrap().handle;
    browser.client().switch_to_window(second.clone()).await.unwrap();
    open_editor(&browser, &bob).await;

    browser.client().switch_to_window(first.clone()).await.unwrap();
    assert_eq!(browser.value(FLOW).await, json!(true));
    browser.click("#red-ui-header-button-deploy").await;
    browser.until("!RED.nodes.dirty()").await;
    browser.until("document.querySelector('.red-ui-notification-success')").await;
    let ids = |flows: String| (1..=5).filter(|n| flows.contains(&format!("aaaaaaaaaaaaaa0{n}"))).count();
    assert_eq!(ids(get(server.port, &ada.host, "/flows").await.text()), 5);
    assert_eq!(ids(get(server.port, &bob.host, "/flows").await.text()), 0);
    assert_eq!(get(server.port, &ada.host, "/hello").await.text(), "Ada was here");
    assert_eq!(get(server.port, &bob.host, "/hello").await.status, 404);

    for tab in [&first, &second] {
        browser.client().switch_to_window(tab.clone()).await.unwrap();
        let long = format!("performance.now() - sockets[0].opened >= {OPEN_MS}");
        browser.until_within(START, &long).await;
        // The server of the editor sends a message every 15 seconds.
        assert!(socket(&browser).await.as_u64().unwrap() >= 3);
    }

    // The sockets still work, each for its own visitor.
    browser.client().switch_to_window(first).await.unwrap();
    browser.value("RED.sidebar.show('debug')").await;
    browser.value("void fetch('/inject/aaaaaaaaaaaaaa04', { method: 'POST' })").await;
    browser.text_when(".red-ui-debug-content", |text| text.contains("Sent to the editor")).await;
    browser.screenshot("node-red").await;
    socket(&browser).await;
    browser.client().switch_to_window(second).await.unwrap();
    socket(&browser).await;
    assert_eq!(browser.value("document.querySelectorAll('.red-ui-debug-msg').length").await, json!(0));
    assert_eq!(browser.value("!RED.nodes.node('aaaaaaaaaaaaaa05')").await, json!(true));
    browser.close().await;
}
