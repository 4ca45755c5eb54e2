//! Tests of the whole app over real connections.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::error::SampleAppError;
use super::listener::run;
use super::*;
use crate::clock::Clock;
use crate::telemetry::task;

/// A folder for one test, removed when it is dropped.
pub(super) struct TempFolder(PathBuf);

impl TempFolder {
    pub(super) fn new() -> TempFolder {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let path = std::env::temp_dir().join(format!("sample-app-{:016x}", u64::from_ne_bytes(random)));
        std::fs::create_dir(&path).unwrap();
        TempFolder(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for a future with a deadline.
async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it should complete before the deadline")
}

struct Running {
    address: String,
    folder: TempFolder,
    server: JoinHandle<Result<(), SampleAppError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn start() -> Running {
    let folder = TempFolder::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let settings = Settings {
        host: "unused".into(),
        port: 0,
        id: "shop-<1>".into(),
        url: format!("http://{address}/"),
        instance_host: address.clone(),
        files: None,
        data_file: folder.path().join("guestbook.json"),
    };
    Running { address, folder, server: task::spawn("sample app", serve(listener, settings)) }
}

impl Running {
    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Response<Incoming> {
        let stream = within_deadline(TcpStream::connect(&self.address)).await.unwrap();
        let (mut sender, connection) =
            within_deadline(hyper::client::conn::http1::handshake(TokioIo::new(stream))).await.unwrap();
        task::spawn("test client", connection);
        let request = request.header("host", &self.address).body(Full::new(body.into())).unwrap();
        within_deadline(sender.send_request(request)).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        read(self.send(Request::get(path), "").await).await
    }

    async fn sign(&self, name: &str, text: &str) -> Response<Incoming> {
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let form = format!("name={}&text={}", encode(name), encode(text));
        let request = Request::post("/entries").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request, form).await
    }

    async fn live(&self) -> WebSocketStream<TcpStream> {
        let stream = within_deadline(TcpStream::connect(&self.address)).await.unwrap();
        let url = format!("ws://{}/live", self.address);
        within_deadline(tokio_tungstenite::client_async(url, stream)).await.unwrap().0
    }
}

async fn read(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = within_deadline(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn next_message(socket: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = within_deadline(socket.next()).await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn a_posted_entry_is_escaped_on_the_page_and_unchanged_in_the_json() {
    let app = start().await;
    let answer = app.sign("<b>Ada</b>", "line one\nit's & \"so\"").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()[LOCATION], "/");

    let (status, page) = app.get("/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("<bdi>&lt;b&gt;Ada&lt;/b&gt;</bdi>"));
    assert!(page.contains("line one\nit&#39;s &amp; &quot;so&quot;"));
    assert!(page.contains("shop-&lt;1&gt;") && !page.contains("shop-<1>"));
    assert!(!page.contains("{{"));

    let book: Value = serde_json::from_str(&app.get("/entries").await.1).unwrap();
    assert_eq!(book["entries"][0]["name"], "<b>Ada</b>");
    assert_eq!(book["last_id"], 1);
    let saved = std::fs::read(app.folder.path().join("guestbook.json")).unwrap();
    assert_eq!(guest_book::GuestBook::from_json(&saved).unwrap().last_id(), 1);
}

#[tokio::test]
async fn a_refused_entry_gets_a_page_with_the_reason_and_the_typed_text() {
    let app = start().await;
    let (status, page) = read(app.sign("", "my \"words\"").await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("Please enter your name.") && page.contains("my &quot;words&quot;</textarea>"));
    let (status, page) = read(app.sign(&"n".repeat(61), "x").await).await;
    assert!(status == StatusCode::BAD_REQUEST && page.contains("at most 60 characters"));
    let (status, _) = read(app.sign("Ada", &"x".repeat(9000)).await).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let book: Value = serde_json::from_str(&app.get("/entries").await.1).unwrap();
    assert_eq!(book["entries"], json!([]));
}

#[tokio::test]
async fn a_client_that_accepts_json_gets_the_entry_or_the_wrong_field() {
    let app = start().await;
    let post = || Request::post("/entries").header(ACCEPT, "application/json");
    let (status, entry) = read(app.send(post(), "name=Ada&text=hello").await).await;
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!((status, &entry["id"], &entry["initial"]), (StatusCode::CREATED, &json!(1), &json!("A")));
    let (status, error) = read(app.send(post(), "name=Ada").await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error, json!({ "error": "Please write a message.", "field": "text" }));
}

#[tokio::test]
async fn the_page_counts_down_only_when_the_proxy_sends_the_deadline() {
    let app = start().await;
    assert!(!app.get("/").await.1.contains("Time left"));
    let until = (Clock::System.now() + Duration::from_secs(3600)).rfc3339();
    let page = read(app.send(Request::get("/").header("X-Demo-Expires-At", until), "").await).await.1;
    assert!(page.contains("Time left"));
    let left =
        page.split("data-left-ms=\"").nth(1).unwrap().split('"').next().unwrap().parse::<u64>().unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
}

#[tokio::test]
async fn each_page_has_its_own_nonce_and_allows_only_script_and_style_with_it() {
    let app = start().await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let answer = app.send(Request::get("/"), "").await;
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert!(read(answer).await.1.contains(&format!("<script nonce=\"{nonce}\">")));
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
}

#[tokio::test]
async fn the_live_socket_sends_a_hello_and_then_each_new_entry() {
    let app = start().await;
    let mut socket = app.live().await;
    let hello = next_message(&mut socket).await;
    assert_eq!(hello["type"], "hello");
    assert_eq!(
        (&hello["id"], &hello["visitors"], &hello["last_id"]),
        (&json!("shop-<1>"), &json!(1), &json!(0))
    );
    app.sign("Ada", "live!").await;
    let entry = next_message(&mut socket).await;
    assert_eq!(
        (&entry["type"], &entry["name"], &entry["text"]),
        (&json!("entry"), &json!("Ada"), &json!("live!"))
    );
}

#[tokio::test]
async fn visitors_are_counted_as_sockets_open_and_close() {
    let app = start().await;
    let mut first = app.live().await;
    next_message(&mut first).await;
    let mut second = app.live().await;
    assert_eq!(next_message(&mut second).await["visitors"], 2);
    assert_eq!(next_message(&mut first).await, json!({ "type": "visitors", "n": 2 }));
    drop(second);
    assert_eq!(next_message(&mut first).await, json!({ "type": "visitors", "n": 1 }));
}

#[tokio::test]
async fn the_live_socket_echoes_answers_pings_and_closes_on_a_message_that_is_too_long() {
    let app = start().await;
    let mut socket = app.live().await;
    next_message(&mut socket).await;
    let echo = json!({ "type": "echo", "text": "x".repeat(16_000) });
    within_deadline(socket.send(Message::text(echo.to_string()))).await.unwrap();
    assert_eq!(next_message(&mut socket).await, echo);
    within_deadline(socket.send(Message::Ping(Bytes::from_static(b"p")))).await.unwrap();
    assert_eq!(
        within_deadline(socket.next()).await.unwrap().unwrap(),
        Message::Pong(Bytes::from_static(b"p"))
    );

    within_deadline(socket.send(Message::text("x".repeat(300_000)))).await.unwrap();
    let closed = within_deadline(socket.next()).await.unwrap().unwrap();
    let Message::Close(Some(frame)) = closed else { panic!("{closed:?} instead of a close") };
    assert_eq!(frame.code, CloseCode::Size);
}

#[tokio::test]
async fn the_first_event_is_sent_at_once() {
    let app = start().await;
    let answer = app.send(Request::get("/events"), "").await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body();
    let first = within_deadline(body.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"event: tick\ndata: {\"n\":0,"), "{first:?}");
}

#[tokio::test]
async fn an_upload_is_counted_and_a_download_has_the_requested_length() {
    let app = start().await;
    let (_, sum) = read(app.send(Request::post("/upload"), vec![1, 2, 4, 8, 8]).await).await;
    assert_eq!(serde_json::from_str::<Value>(&sum).unwrap(), json!({ "bytes": 5, "xor": 7 }));
    for (query, length) in [("bytes=100000", Some("100000")), ("bytes=100000&chunked=1", None)] {
        let answer = app.send(Request::get(format!("/download?{query}")), "").await;
        assert_eq!(answer.headers().get(CONTENT_LENGTH).map(|v| v.to_str().unwrap()), length);
        assert_eq!(within_deadline(answer.into_body().collect()).await.unwrap().to_bytes().len(), 100_000);
    }
}

#[tokio::test]
async fn whoami_shows_the_request_as_it_arrived() {
    let app = start().await;
    let request = Request::delete("/whoami?a=b").header("x-two", "1").header("X-Two", "2");
    let seen: Value = serde_json::from_str(&read(app.send(request, "").await).await.1).unwrap();
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["query"]),
        (&json!("DELETE"), &json!("/whoami"), &json!("a=b"))
    );
    assert_eq!(seen["headers"]["x-two"], json!(["1", "2"]));
    assert_eq!(seen["headers"]["host"], json!([app.address]));
}

#[tokio::test]
async fn health_is_ok_and_an_unknown_path_is_not_found() {
    let app = start().await;
    assert_eq!(app.get("/health").await, (StatusCode::OK, "ok".to_owned()));
    assert_eq!(app.get("/live").await.0, StatusCode::UPGRADE_REQUIRED);
    assert_eq!(app.get("/entries/1").await.0, StatusCode::NOT_FOUND);
    assert_eq!(app.send(Request::delete("/"), "").await.status(), StatusCode::NOT_FOUND);
    let head = app.send(Request::head("/"), "").await;
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let folder = TempFolder::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut settings = Settings::from_variables(|name| (name == "PORT").then(|| port.to_string())).unwrap();
    settings.data_file = folder.path().join("guestbook.json");
    let error = within_deadline(run(settings)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on 127.0.0.1:{port}:")), "{error}");
}
