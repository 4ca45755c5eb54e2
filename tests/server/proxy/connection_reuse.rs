//! One connection carries requests for the API and for several instances in any order, and each reaches its own
//! destination.

use std::time::Duration;

use futures_util::StreamExt;
use http::Request;
use tokio::time::timeout;

use crate::support::harness::{
    AcquiredInstance, Certificate, RawConnection, Server, h2_get, h2_over, h2_request, h2c, websocket,
};

/// The number of requests on one connection.
const REQUESTS: usize = 400;

/// The hosts of the numbered requests of a test: the API and two instances.
struct HostMix {
    api: String,
    instances: [AcquiredInstance; 2],
}

impl HostMix {
    async fn on(server: &Server) -> Self {
        Self {
            api: format!("localhost:{}", server.port),
            instances: [server.acquire().await, server.acquire().await],
        }
    }

    /// Returns the host of request `n`. The sequence has no period of two or three, so every order of neighbours
    /// occurs.
    fn host(&self, n: usize) -> &str {
        match [0, 1, 0, 2, 1, 2, 2, 0, 0, 1, 1][n % 11] {
            0 => &self.api,
            i => &self.instances[i - 1].host,
        }
    }

    /// Returns a request whose path both destinations know, with different answers.
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
    let hosts = HostMix::on(&server).await;
    alternate_on(&hosts, RawConnection::connect(server.port).await, first, pipelined).await;
}

/// Sends `pipelined` requests at a time and reads their answers. Begins with request number `first`.
async fn alternate_on(hosts: &HostMix, mut connection: RawConnection, first: usize, pipelined: usize) {
    let numbers: Vec<usize> = (first..first + REQUESTS).collect();
    for batch in numbers.chunks(pipelined) {
        let requests: String = batch.iter().map(|n| hosts.whoami(*n)).collect();
        connection.send(requests).await;
        for n in batch {
            let answer = connection.read_answer().await;
            hosts.check(*n, answer.status, &answer.text());
        }
    }
    connection.send(hosts.request(0)).await;
    assert_eq!(connection.read_answer().await.status, 200);
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
    let hosts = HostMix::on(&server).await;
    streams_on(&hosts, h2c(server.port).await, "http").await;
}

#[tokio::test]
async fn a_browser_may_coalesce_hosts_on_one_encrypted_connection() {
    let (server, certificate) = Server::with_tls().await;
    let hosts = HostMix::on_encrypted(&server, &certificate).await;
    let stream = certificate.connect(server.port, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    streams_on(&hosts, h2_over(stream).await, "https").await;
    for first in [0, 1] {
        let stream = certificate.connect(server.port, &["http/1.1"]).await.unwrap();
        alternate_on(&hosts, RawConnection::over(stream), first, 1).await;
    }
}

/// Sends all requests at the same time, each on a stream of its own.
async fn streams_on(hosts: &HostMix, send: h2::client::SendRequest<bytes::Bytes>, scheme: &str) {
    let asked = (0..REQUESTS).map(async |n| {
        let request = Request::get(format!("{scheme}://{}/whoami?{n}", hosts.host(n))).body(()).unwrap();
        let answer = h2_request(&send, request).await.unwrap();
        hosts.check(n, answer.status, &answer.text());
    });
    futures_util::stream::iter(asked).buffer_unordered(64).collect::<Vec<()>>().await;
}

impl HostMix {
    async fn on_encrypted(server: &Server, certificate: &Certificate) -> Self {
        let acquire = async || certificate.acquire(server.port).await;
        Self { api: format!("localhost:{}", server.port), instances: [acquire().await, acquire().await] }
    }
}

#[tokio::test]
async fn an_http2_stream_whose_authority_and_host_differ_is_refused() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let send = h2c(server.port).await;
    for (authority, host) in [("localhost", instance.host.as_str()), (instance.host.as_str(), "localhost")] {
        let request =
            Request::get(format!("http://{authority}/whoami")).header("host", host).body(()).unwrap();
        let answer = h2_request(&send, request).await.unwrap();
        assert_eq!(answer.status, 400, "{authority} {host}: {}", answer.text());
    }
    // The connection and its other streams continue.
    assert_eq!(h2_get(&send, &instance.host, "/whoami").await.json()["id"], instance.id);
    let request = Request::get(format!("http://{}/", instance.host))
        .header("x-long", "a".repeat(40_000))
        .body(())
        .unwrap();
    let refused = h2_request(&send, request).await.map(|answer| answer.status);
    assert!(matches!(refused, Ok(431) | Err(_)), "{refused:?}");
}

/// Opens a WebSocket on the connection and receives the app's first message and an echo.
async fn open_websocket(connection: RawConnection, instance: &AcquiredInstance) {
    let mut socket = websocket::open(connection, instance).await;
    assert_eq!(websocket::receive(&mut socket, "hello").await["id"], instance.id.as_str());
    websocket::echo(&mut socket, "hi").await;
}

#[tokio::test]
async fn a_websocket_opens_as_a_later_request_on_every_kind_of_connection() {
    let server = Server::start(&[]).await;
    let hosts = HostMix::on(&server).await;
    for before in [&[][..], &[0], &[1], &[0, 1], &[1, 0], &[1, 0, 3, 3]] {
        let mut connection = RawConnection::connect(server.port).await;
        for n in before {
            connection.send(hosts.whoami(*n)).await;
            let answer = connection.read_answer().await;
            hosts.check(*n, answer.status, &answer.text());
        }
        open_websocket(connection, &hosts.instances[0]).await;
    }
    // A handshake that is pipelined behind other requests waits for its turn.
    let mut connection = RawConnection::connect(server.port).await;
    connection.send(hosts.whoami(1) + &hosts.whoami(0) + &hosts.whoami(1)).await;
    for n in [1, 0, 1] {
        let answer = connection.read_answer().await;
        hosts.check(n, answer.status, &answer.text());
    }
    open_websocket(connection, &hosts.instances[1]).await;
}

#[tokio::test]
async fn many_connections_at_a_time_mix_hosts_without_mixing_answers() {
    let server = Server::start(&[]).await;
    let hosts = HostMix::on(&server).await;
    let clients = (0..32).map(async |c| {
        let mut connection = RawConnection::connect(server.port).await;
        for n in c..c + 40 {
            connection.send(hosts.whoami(n)).await;
            let answer = connection.read_answer().await;
            hosts.check(n, answer.status, &answer.text());
        }
    });
    let all = futures_util::future::join_all(clients);
    timeout(Duration::from_secs(30), all).await.expect("every answer");
}
