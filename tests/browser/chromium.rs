//! A headless Chromium with a profile of its own, controlled through WebDriver.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::support::harness::{MAX_WAIT, request};
use crate::{all_installed, target};

/// Tests with a browser run one after the other, also if other tests of the binary run in parallel.
static TURN: Mutex<()> = Mutex::const_new(());

/// The longest time until a browser has started on a busy machine.
const START: Duration = Duration::from_secs(60);

const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--hide-scrollbars",
    "--window-size=1280,900",
    // No request may leave this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
];

/// A running browser. When it is dropped, it and its driver are killed and its profile is removed.
pub struct Browser {
    client: Client,
    session: String,
    driver: Child,
    driver_port: u16,
    chromium: Option<Pid>,
    folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser. Returns `None` if Chromium or its driver is not installed.
    pub async fn start() -> Option<Self> {
        Self::start_with(json!({})).await
    }

    /// Starts a browser with JavaScript disabled in its settings. Returns `None` if Chromium or its driver is not
    /// installed.
    pub async fn without_javascript() -> Option<Self> {
        Self::start_with(json!({"profile.managed_default_content_settings.javascript": 2})).await
    }

    async fn start_with(settings: Value) -> Option<Self> {
        if !all_installed(&["chromium", "chromedriver"]) {
            return None;
        }
        let turn = TURN.lock().await;
        let folder = std::env::temp_dir().join(format!("try-it-now-browser-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", &folder)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the driver prints its port");
                if let Some((_, port)) = line.trim_end_matches('.').rsplit_once("successfully on port ") {
                    return port.parse::<u16>().unwrap();
                }
            }
        };
        let driver_port = tokio::time::timeout(START, listening).await.expect("the driver listens");
        try_it_now::telemetry::task::spawn("test", async move {
            while let Ok(Some(_)) = lines.next_line().await {}
        });
        let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
        flags.push(format!("--user-data-dir={}", folder.join("profile").display()));
        let capabilities = json!({
            "goog:chromeOptions": {"args": flags, "prefs": settings},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let connecting = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{driver_port}"))
            .await;
        let client = connecting.unwrap();
        let pid = client.capabilities().and_then(|given| given.get("goog:processID")?.as_i64());
        let chromium = pid.and_then(|pid| Pid::from_raw(pid as i32));
        let session = client.session_id().await.unwrap().unwrap();
        Some(Self { client, session, driver, driver_port, chromium, folder, _turn: turn })
    }

    /// Returns the WebDriver client for operations that this type does not have.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Opens a URL and waits until the page has loaded.
    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Returns the URL of the page.
    pub async fn address(&self) -> String {
        self.client.current_url().await.unwrap().to_string()
    }

    /// Waits until the element of a CSS selector exists and is displayed, and returns it.
    pub async fn element(&self, selector: &str) -> Element {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            if let Ok(element) = self.client.find(Locator::Css(selector)).await
                && element.is_displayed().await.unwrap_or(false)
            {
                return element;
            }
            self.wait_before(deadline, selector).await;
        }
    }

    /// Waits for an element and returns its visible text.
    pub async fn text(&self, selector: &str) -> String {
        self.element(selector).await.text().await.unwrap()
    }

    /// Waits until `wanted` is true for the text of an element, and returns the text.
    pub async fn text_when(&self, selector: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            // The page may change at this moment.
            let element = self.client.find(Locator::Css(selector)).await;
            if let Ok(element) = element
                && let Ok(text) = element.text().await
                && wanted(&text)
            {
                return text;
            }
            self.wait_before(deadline, selector).await;
        }
    }

    /// Waits for an element and clicks on it.
    pub async fn click(&self, selector: &str) {
        self.element(selector).await.click().await.unwrap();
    }

    /// Waits for an input element and types into it.
    pub async fn write(&self, selector: &str, text: &str) {
        self.element(selector).await.send_keys(text).await.unwrap();
    }

    /// Evaluates a JavaScript expression in the page.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return ({expression});"), Vec::new()).await.unwrap()
    }

    /// Waits until a JavaScript expression is true in the page.
    pub async fn until(&self, expression: &str) {
        self.until_within(MAX_WAIT, expression).await;
    }

    /// Waits until a JavaScript expression is true in the page. Panics after `limit`.
    pub async fn until_within(&self, limit: Duration, expression: &str) {
        let deadline = Instant::now() + limit;
        let script = format!("return Boolean({expression});");
        while self.client.execute(&script, Vec::new()).await.ok() != Some(Value::Bool(true)) {
            self.wait_before(deadline, expression).await;
        }
    }

    /// Waits before the next attempt. After the deadline, panics with the state of the page.
    async fn wait_before(&self, deadline: Instant, wanted: &str) {
        if Instant::now() >= deadline {
            self.screenshot("failed").await;
            let (url, console) = (self.address().await, self.console().await);
            let source = self.client.source().await.unwrap_or_default();
            panic!("timed out: {wanted}\nat {url}\nconsole: {console:?}\n{source}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Saves a screenshot of the page.
    pub async fn screenshot(&self, name: &str) {
        let folder = target("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// Returns the warnings and errors that the console has logged since the last call.
    pub async fn console(&self) -> Vec<String> {
        let said = self.driver("se/log", json!({"type": "browser"})).await;
        let entries = said.as_array().unwrap().iter();
        let serious = entries.filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")));
        serious.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Sends one command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.driver("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Sends one of the driver's own commands, which are not part of WebDriver.
    async fn driver(&self, path: &str, body: Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        let body = body.to_string();
        let json = [("content-type", "application/json")];
        let answer = request(self.driver_port, "POST", "localhost", &path, &json, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["value"].take()
    }

    /// Closes the browser as a user does.
    pub async fn close(mut self) {
        let closed = tokio::time::timeout(MAX_WAIT, self.client.clone().close()).await;
        closed.expect("the browser closes").unwrap();
        self.chromium = None;
        self.driver.kill().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After a failure the driver is not asked to close the browser. The other processes of the browser end with the
        // first one.
        let _ = self.driver.start_kill();
        if let Some(pid) = self.chromium {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        // The processes write to the profile until they have ended.
        for _ in 0..100 {
            let _ = std::fs::remove_dir_all(&self.folder);
            if !self.folder.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
