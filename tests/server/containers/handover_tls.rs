//! Another process takes the place of a server with TLS. Its connections have state in the old process, which closes them:
//! HTTP/2 says up to which request it answers, HTTP/1.1 closes after an answer or between two requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use parking_lot::Mutex;
use try_it_now::telemetry::task;

use super::{ContainerHost, FULL_TIMEOUT};
use crate::support::harness::{
    AcquiredInstance, Answer, Certificate, RawConnection, Server, eventually, eventually_within, h2_collect,
    h2_over, h2_request, websocket,
};
use crate::support::stack::Stack;

/// A server with TLS and a full pool, and what its clients saw.
struct Client {
    certificate: Certificate,
    port: u16,
    answers: AtomicUsize,
    /// Requests that were sent again on another connection, since the first was closed before any answer.
    repeated: AtomicUsize,
    failures: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// Starts a server; `None` where there is nothing to run containers with. The host must live as long as the server.
async fn start() -> Option<(ContainerHost, Server, Arc<Client>)> {
    let host = ContainerHost::new(Stack::find()?, "sample", "", "path = \"/\"")?;
    let certificate = Certificate::new();
    let (chain, key) = (host.folder.join("cert.pem"), host.folder.join("key.pem"));
    certificate.write(&chain, &key);
    let settings = [
        ("TLS_CERT", chain.to_str().unwrap()),
        ("TLS_KEY", key.to_str().unwrap()),
        ("POOL_TARGET_SIZE", "2"),
        ("SHUTDOWN_GRACE", "300s"),
    ];
    let server = host.start_server(&settings).await;
    let port = server.port;
    let client = Client {
        certificate,
        port,
        answers: AtomicUsize::new(0),
        repeated: AtomicUsize::new(0),
        failures: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    Some((host, server, Arc::new(client)))
}

impl Client {
    async fn acquire(&self) -> AcquiredInstance {
        let acquired = async || {
            let mut connection = self.http1().await;
            connection
                .send("POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                .await;
            let answer = connection.read_answer().await;
            (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
        };
        eventually_within(FULL_TIMEOUT, "an instance is acquired", acquired).await
    }

    async fn http1(&self) -> RawConnection {
        RawConnection::over(self.certificate.connect(self.port, &["http/1.1"]).await.unwrap())
    }

    async fn http2(&self) -> SendRequest<Bytes> {
        h2_over(self.certificate.connect(self.port, &["h2"]).await.unwrap()).await
    }

    fn count(&self, path: &str, answer: &Answer) {
        match answer.status {
            200 => drop(self.answers.fetch_add(1, SeqCst)),
            status => self.failures.lock().push(format!("{path}: {status} {}", answer.text())),
        }
    }

    /// Sends requests on one HTTP/1.1 connection until the end. As every client does, opens another one after an answer
    /// that says that it closes, and sends a request again whose connection was used before and ended without an answer.
    async fn read_over_http1(self: Arc<Self>, host: String, path: &'static str) {
        let (mut connection, mut is_used) = (self.http1().await, false);
        while !self.is_over.load(SeqCst) {
            let sent = connection.try_send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            let head = match sent {
                Ok(()) => connection.try_read_head().await,
                Err(_) => None,
            };
            let closes = match head {
                Some(head) => {
                    let closes = head.headers.get("connection").is_some_and(|value| value == "close");
                    self.count(path, &connection.read_body(head).await);
                    closes
                }
                None if is_used => {
                    self.repeated.fetch_add(1, SeqCst);
                    true
                }
                None => return self.failures.lock().push(format!("{path}: a new connection has no answer")),
            };
            is_used = !closes;
            if closes {
                connection = self.http1().await;
            }
        }
    }

    /// Sends requests on one HTTP/2 connection until the end. As every client does, opens another one once the server says
    /// that it answers no more on it, and sends the requests again that it will not answer.
    async fn read_over_http2(self: Arc<Self>, host: String, path: &'static str) {
        let (mut connection, mut is_used) = (self.http2().await, false);
        while !self.is_over.load(SeqCst) {
            let request = Request::get(format!("https://{host}{path}")).body(()).unwrap();
            match h2_request(&connection, request).await {
                Ok(answer) => {
                    self.count(path, &answer);
                    is_used = true;
                }
                Err(error) if is_used && error.is_go_away() => {
                    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}");
                    (connection, is_used) = (self.http2().await, false);
                }
                Err(error) => return self.failures.lock().push(format!("{path}: {error}")),
            }
        }
    }
}

#[tokio::test]
async fn no_request_over_tls_fails_while_other_processes_take_the_place_of_a_server() {
    let Some((_host, mut server, client)) = start().await else { return };
    let kept = client.acquire().await;
    let mut visitors = Vec::new();
    for (to, path) in [(kept.host.as_str(), "/"), ("localhost", "/health")] {
        visitors.push(task::spawn("visitor", client.clone().read_over_http1(to.to_owned(), path)));
        visitors.push(task::spawn("visitor", client.clone().read_over_http2(to.to_owned(), path)));
    }
    for round in 0..3 {
        let answered = async || {
            let before = client.answers.load(SeqCst);
            eventually("more answers", async || (client.answers.load(SeqCst) > before + 100).then_some(()))
                .await;
        };
        answered().await;
        server.replace().await;
        answered().await;
        let failures = client.failures.lock().clone();
        assert_eq!(failures, Vec::<String>::new(), "round {round}");
    }
    client.is_over.store(true, SeqCst);
    for visitor in visitors {
        visitor.await.unwrap();
    }
    assert_eq!(client.failures.lock().clone(), Vec::<String>::new());
    let (answers, repeated) = (client.answers.load(SeqCst), client.repeated.load(SeqCst));
    println!("{answers} answers, {repeated} sent again");
    // No more than each of the two connections of HTTP/1.1 once in each handover.
    assert!(repeated <= 2 * 3, "{repeated} of {answers} were sent again");
}

#[tokio::test]
async fn what_was_begun_over_tls_goes_on_in_the_old_process() {
    let Some((_host, mut server, client)) = start().await else { return };
    let kept = client.acquire().await;
    let mut live = websocket::open(client.http1().await, &kept).await;
    let mut upload = client.http1().await;
    let head = format!("POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\n12", kept.host);
    upload.send(head).await;
    let mut other = client.http2().await.ready().await.unwrap();
    let request = Request::post(format!("https://{}/upload", kept.host)).body(()).unwrap();
    let (answer, mut body) = other.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"12"), false).unwrap();
    // The server has read what was sent before.
    assert_eq!(client.http1().await.get("localhost", "/health").await.status, 200);

    server.replace().await;
    upload.send("34").await;
    let answered = upload.read_answer().await;
    assert_eq!((answered.status, &answered.headers["connection"]), (200, &"close".parse().unwrap()));
    body.send_data(Bytes::from_static(b"34"), true).unwrap();
    let answered = h2_collect(answer.await.unwrap()).await.unwrap();
    assert_eq!(answered.status, 200, "{}", answered.text());
    websocket::echo(&mut live, "carried").await;
}
