//! A visitor of an instance, as a browser is one: through the proxy, with cookies.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::harness::websocket::{self, WebSocket};
use crate::support::harness::{AcquiredInstance, Answer, RawConnection, request};

/// A visitor with an instance.
pub(super) struct Visitor {
    /// The port of the server.
    pub(super) port: u16,
    pub(super) instance: AcquiredInstance,
    /// What the API says about logging in.
    pub(super) credentials: String,
    /// A word of letters and digits that no other visitor has.
    pub(super) word: String,
    cookies: Mutex<BTreeMap<String, String>>,
}

impl Visitor {
    /// Creates the visitor of an acquired instance.
    pub(super) fn new(port: u16, acquired: &serde_json::Value) -> Self {
        let word = format!("zoo{}", uuid::Uuid::now_v7().simple());
        let credentials = acquired["credentials"].as_str().unwrap_or_default().to_owned();
        let instance = AcquiredInstance::from_json(acquired);
        Self { port, instance, credentials, word, cookies: Mutex::default() }
    }

    /// Returns a visitor of the same instance with another browser.
    #[allow(dead_code, reason = "not every selection of apps has sessions")]
    pub(super) fn without_cookies(&self) -> Self {
        Self {
            port: self.port,
            instance: self.instance.clone(),
            credentials: self.credentials.clone(),
            word: self.word.clone(),
            cookies: Mutex::default(),
        }
    }

    /// Sends a request with the cookies so far, and keeps those of the answer.
    pub(super) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let cookies = self.cookies();
        let mut headers = headers.to_vec();
        if !cookies.is_empty() {
            headers.push(("cookie", &cookies));
        }
        let answer = request(self.port, method, &self.instance.host, path, &headers, body).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            if let Some((name, value)) = cookie.split_once('=') {
                self.cookies.lock().insert(name.trim().to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Returns the cookies so far as the field `cookie` has them.
    pub(super) fn cookies(&self) -> String {
        let cookies = self.cookies.lock();
        let pairs: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    /// Returns the text of a page. Panics if its status is not 200.
    pub(super) async fn page(&self, path: &str) -> String {
        let answer = self.request("GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}: {:?} {}", answer.headers, answer.text());
        answer.text()
    }

    /// Posts a form, whose body is encoded already.
    pub(super) async fn post_form(&self, path: &str, form: &str) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.request("POST", path, &headers, form).await
    }

    /// Sends JSON.
    pub(super) async fn send_json(&self, method: &str, path: &str, value: &serde_json::Value) -> Answer {
        self.request(method, path, &[("content-type", "application/json")], &value.to_string()).await
    }

    /// Opens a WebSocket. `fields` are further lines of the head, each with `\r\n` at its end.
    pub(super) async fn socket(&self, path: &str, fields: &str) -> WebSocket {
        let mut connection = RawConnection::connect(self.port).await;
        let fields =
            format!("Cookie: {}\r\nOrigin: http://{}\r\n{fields}", self.cookies(), self.instance.host);
        let head = websocket::handshake(&mut connection, &self.instance.host, path, &fields).await;
        assert_eq!(head.status, 101, "{head:?}");
        let (stream, read) = connection.into_parts();
        WebSocketStream::from_partially_read(stream, read, Role::Client, None).await
    }
}

/// Returns the text between two others, of which the first one is searched for first.
///
/// # Panics
/// Panics if one of them is missing.
#[track_caller]
pub(super) fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let found = text.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
    found.unwrap_or_else(|| panic!("no `{begin}`...`{end}` in {text}")).0
}
