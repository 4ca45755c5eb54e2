//! One connection carries requests for the API and for several instances in any order; each reaches its own side.

use std::time::Duration;

use futures_util::StreamExt;
use http::Request;
use tokio::time::timeout;

use crate::support::harness::{Certificate, Demo, Server, Wire, h2_ask, h2_get, h2_over, h2c, websocket};

/// Requests on one connection.
const MANY: usize = 400;

/// The host of the request with number `n`, and a text that only its own side answers.
struct Mix {
    api: String,
    demos: [Demo; 2],
}

impl Mix {
    async fn on(server: &Server) -> Self {
        Self {
            api: format!("localhost:{}", server.port),
            demos: [server.acquire().await, server.acquire().await],
        }
    }

    /// Every order of neighbours comes up: the sequence has no period of two or three.
    fn host(&self, n: usize) -> &str {
        match [0, 1, 0, 2, 1, 2, 2, 0, 0, 1, 1][n % 11] {
            0 => &self.api,
            i => &self.demos[i - 1].host,
        }
    }

    /// A path that both sides know, with different answers.
    fn request(&self, n: usize) -> String {
        format!("GET /health?{n} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host(n))
    }

    fn whoami(&self, n: usize) -> String {
        format!("GET /whoami?{n} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host(n))
    }

    fn check(&self, n: usize, status: u16, text: &str) {
        let host = self.host(n);
        if host == self.api {
            assert!(status == 404 && text.contains(r#""code":"NOT_FOUND""#), "{n}: {status} {text}");
        } else {
            let id = host.split('.').next().unwrap();
            assert_eq!(status, 200, "{n}: {text}");
            assert!(
                text.contains(&format!(r#""id":"{id}""#)) && text.contains(&format!(r#""query":"{n}""#)),
                "{n}: {text}"
            );
        }
    }
}

async fn alternate(first: usize, pipelined: usize) {
    let server = Server::start(&[]).await;
    let mix = Mix::on(&server).await;
    alternate_on(&mix, Wire::connect(server.port).await, first, pipelined).await;
}

/// Sends `pipelined` requests at a time and reads their answers, beginning with number `first`.
async fn alternate_on(mix: &Mix, mut wire: Wire, first: usize, pipelined: usize) {
    let numbers: Vec<usize> = (first..first + MANY).collect();
    for batch in numbers.chunks(pipelined) {
        let requests: String = batch.iter().map(|n| mix.whoami(*n)).collect();
        wire.send(requests).await;
        for n in batch {
            let answer = wire.answer().await;
            mix.check(*n, answer.status, &answer.text());
        }
    }
    wire.send(mix.request(0)).await;
    assert_eq!(wire.answer().await.status, 200);
}

#[tokio::test]
async fn a_connection_that_begins_with_the_api_serves_all_hosts_in_any_order() {
    alternate(0, 1).await;
}

#[tokio::test]
async fn a_connection_that_begins_with_an_instance_serves_all_hosts_in_any_order() {
    alternate(1, 1).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_each_by_its_own_side() {
    for first in [0, 1] {
        alternate(first, 20).await;
    }
}

#[tokio::test]
async fn http2_in_the_clear_serves_all_hosts_on_one_connection() {
    let server = Server::start(&[]).await;
    let mix = Mix::on(&server).await;
    streams_on(&mix, h2c(server.port).await, "http").await;
}

#[tokio::test]
async fn a_browser_may_coalesce_hosts_on_one_encrypted_connection() {
    let (server, certificate) = Server::encrypted().await;
    let mix = Mix::on_encrypted(&server, &certificate).await;
    let stream = certificate.connect(server.port, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    streams_on(&mix, h2_over(stream).await, "https").await;
    for first in [0, 1] {
        let stream = certificate.connect(server.port, &["http/1.1"]).await.unwrap();
        alternate_on(&mix, Wire::over(stream), first, 1).await;
    }
}

/// All requests at once, each on a stream of its own.
async fn streams_on(mix: &Mix, send: h2::client::SendRequest<bytes::Bytes>, scheme: &str) {
    let asked = (0..MANY).map(async |n| {
        let request = Request::get(format!("{scheme}://{}/whoami?{n}", mix.host(n))).body(()).unwrap();
        let answer = h2_ask(&send, request).await.unwrap();
        mix.check(n, answer.status, &answer.text());
    });
    futures_util::stream::iter(asked).buffer_unordered(64).collect::<Vec<()>>().await;
}

impl Mix {
    async fn on_encrypted(server: &Server, certificate: &Certificate) -> Self {
        let acquire = async || certificate.acquire(server.port).await;
        Self { api: format!("localhost:{}", server.port), demos: [acquire().await, acquire().await] }
    }
}

#[tokio::test]
async fn an_http2_stream_whose_authority_and_host_differ_is_refused() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let send = h2c(server.port).await;
    for (authority, host) in [("localhost", demo.host.as_str()), (demo.host.as_str(), "localhost")] {
        let request =
            Request::get(format!("http://{authority}/whoami")).header("host", host).body(()).unwrap();
        let answer = h2_ask(&send, request).await.unwrap();
        assert_eq!(answer.status, 400, "{authority} {host}: {}", answer.text());
    }
    // The connection and its other streams live on.
    assert_eq!(h2_get(&send, &demo.host, "/whoami").await.json()["id"], demo.id);
    let request =
        Request::get(format!("http://{}/", demo.host)).header("x-long", "a".repeat(40_000)).body(()).unwrap();
    let refused = h2_ask(&send, request).await.map(|answer| answer.status);
    assert!(matches!(refused, Ok(431) | Err(_)), "{refused:?}");
}

/// Opens a WebSocket on the connection, hears the app's hello and an echo.
async fn open_websocket(wire: Wire, demo: &Demo) {
    let mut socket = websocket::open(wire, demo).await;
    assert_eq!(websocket::hear(&mut socket, "hello").await["id"], demo.id.as_str());
    websocket::echo(&mut socket, "hi").await;
}

#[tokio::test]
async fn a_websocket_opens_as_a_later_request_on_every_kind_of_connection() {
    let server = Server::start(&[]).await;
    let mix = Mix::on(&server).await;
    for before in [&[][..], &[0], &[1], &[0, 1], &[1, 0], &[1, 0, 3, 3]] {
        let mut wire = Wire::connect(server.port).await;
        for n in before {
            wire.send(mix.whoami(*n)).await;
            let answer = wire.answer().await;
            mix.check(*n, answer.status, &answer.text());
        }
        open_websocket(wire, &mix.demos[0]).await;
    }
    // What is pipelined behind another request waits for its turn.
    let mut wire = Wire::connect(server.port).await;
    wire.send(mix.whoami(1) + &mix.whoami(0) + &mix.whoami(1)).await;
    for n in [1, 0, 1] {
        let answer = wire.answer().await;
        mix.check(n, answer.status, &answer.text());
    }
    open_websocket(wire, &mix.demos[1]).await;
}

#[tokio::test]
async fn many_connections_at_a_time_mix_hosts_without_mixing_answers() {
    let server = Server::start(&[]).await;
    let mix = Mix::on(&server).await;
    let connections = (0..32).map(async |c| {
        let mut wire = Wire::connect(server.port).await;
        for n in c..c + 40 {
            wire.send(mix.whoami(n)).await;
            let answer = wire.answer().await;
            mix.check(n, answer.status, &answer.text());
        }
    });
    let all = futures_util::future::join_all(connections);
    timeout(Duration::from_secs(30), all).await.expect("every answer");
}
