//! A headless Chromium with a profile of its own, driven through WebDriver.

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

use crate::support::harness::{PATIENCE, request};
use crate::{found, target};

/// Browsers are heavy: also where the tests of a binary run at the same time, these take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// Starting a browser may take long on a busy machine.
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
    // Nothing here may ask for anything outside of this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
];

/// A running browser. Dropped, it and its driver are killed and its profile is removed.
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
    /// Starts one; `None` when Chromium or its driver is missing.
    pub async fn start() -> Option<Self> {
        Self::start_with(json!({})).await
    }

    /// The same with JavaScript switched off in the browser's settings.
    pub async fn without_javascript() -> Option<Self> {
        Self::start_with(json!({"profile.managed_default_content_settings.javascript": 2})).await
    }

    async fn start_with(settings: Value) -> Option<Self> {
        if !found(&["chromium", "chromedriver"]) {
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
                let line = lines.next_line().await.unwrap().expect("the driver says its port");
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
        let wishes = json!({
            "goog:chromeOptions": {"args": flags, "prefs": settings},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let connecting = ClientBuilder::new(HttpConnector::new())
            .capabilities(wishes.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{driver_port}"))
            .await;
        let client = connecting.unwrap();
        let pid = client.capabilities().and_then(|given| given.get("goog:processID")?.as_i64());
        let chromium = pid.and_then(|pid| Pid::from_raw(pid as i32));
        let session = client.session_id().await.unwrap().unwrap();
        Some(Self { client, session, driver, driver_port, chromium, folder, _turn: turn })
    }

    /// The driver's client, for what is not here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Opens an address and waits until it has loaded.
    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Where it is now.
    pub async fn address(&self) -> String {
        self.client.current_url().await.unwrap().to_string()
    }

    /// The element that a CSS selector names, once it is there and shown.
    pub async fn element(&self, selector: &str) -> Element {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(element) = self.client.find(Locator::Css(selector)).await
                && element.is_displayed().await.unwrap_or(false)
            {
                return element;
            }
            self.wait_before(deadline, selector).await;
        }
    }

    /// The visible text of an element.
    pub async fn text(&self, selector: &str) -> String {
        self.element(selector).await.text().await.unwrap()
    }

    /// Waits until an element's text is as wanted, and returns it.
    pub async fn text_when(&self, selector: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The page may be changing at this very moment.
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

    /// Clicks on an element.
    pub async fn click(&self, selector: &str) {
        self.element(selector).await.click().await.unwrap();
    }

    /// Types into a field.
    pub async fn write(&self, selector: &str, text: &str) {
        self.element(selector).await.send_keys(text).await.unwrap();
    }

    /// What a JavaScript expression amounts to in the page.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return ({expression});"), Vec::new()).await.unwrap()
    }

    /// Waits until a JavaScript expression is true in the page.
    pub async fn until(&self, expression: &str) {
        self.until_within(PATIENCE, expression).await;
    }

    /// The same with a deadline of its own.
    pub async fn until_within(&self, limit: Duration, expression: &str) {
        let deadline = Instant::now() + limit;
        let script = format!("return Boolean({expression});");
        while self.client.execute(&script, Vec::new()).await.ok() != Some(Value::Bool(true)) {
            self.wait_before(deadline, expression).await;
        }
    }

    /// A moment between two looks; after the deadline it fails with all that can be seen.
    async fn wait_before(&self, deadline: Instant, wanted: &str) {
        if Instant::now() >= deadline {
            self.screenshot("failed").await;
            let (url, console) = (self.address().await, self.console().await);
            let source = self.client.source().await.unwrap_or_default();
            panic!("never seen: {wanted}\nat {url}\nconsole: {console:?}\n{source}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Keeps a picture of the page as it is.
    pub async fn screenshot(&self, name: &str) {
        let folder = target("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// What the console has said since this was last asked, warnings and errors only.
    pub async fn console(&self) -> Vec<String> {
        let said = self.driver("se/log", json!({"type": "browser"})).await;
        let entries = said.as_array().unwrap().iter();
        let grave = entries.filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")));
        grave.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// One command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.driver("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// One of the driver's own commands, which are not part of WebDriver.
    async fn driver(&self, path: &str, body: Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        let body = body.to_string();
        let json = [("content-type", "application/json")];
        let answer = request(self.driver_port, "POST", "localhost", &path, &json, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["value"].take()
    }

    /// Ends it as a user would.
    pub async fn close(mut self) {
        let closed = tokio::time::timeout(PATIENCE, self.client.clone().close()).await;
        closed.expect("the browser closes").unwrap();
        self.chromium = None;
        self.driver.kill().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After a failure nobody asks the driver to end the browser. The browser's other processes end with it.
        let _ = self.driver.start_kill();
        if let Some(pid) = self.chromium {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        // They write into the profile until they have noticed.
        for _ in 0..100 {
            let _ = std::fs::remove_dir_all(&self.folder);
            if !self.folder.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
