//! How a server stops: nothing that was begun is broken off, and nothing is left.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::harness::{
    Demo, Events, Server, eventually, h2_get, h2_whole, h2c, instance_folders, processes_of,
};

/// More than the buffers of all sockets on the way hold, so that the server is in the middle of it.
const MUCH: usize = 64 << 20;

/// No process and no folder of any instance is there any more.
#[track_caller]
fn assert_nothing_left(server: &Server) {
    assert_eq!(processes_of(&server.folder), []);
    assert_eq!(instance_folders(&server.folder), Vec::<String>::new());
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port)).await.unwrap()
}

/// An upload of which half has been sent.
async fn half_an_upload(server: &Server, demo: &Demo) -> TcpStream {
    let mut stream = connect(server).await;
    let head =
        format!("POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", demo.host, 2 * MUCH);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; MUCH]).await.unwrap();
    stream
}

/// Reads until the connection is closed.
async fn rest_of(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(crate::support::harness::PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    bytes
}

async fn stop(server: &Server) {
    server.signal("TERM");
    server.log_until(|line| line.contains("stopping")).await;
}

#[tokio::test]
async fn what_is_in_flight_is_finished_and_nothing_new_begun() {
    let mut server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let mut download = connect(&server).await;
    let head = format!("GET /download?bytes={MUCH} HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host);
    download.write_all(head.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    download.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let mut upload = half_an_upload(&server, &demo).await;

    stop(&server).await;
    eventually("no connection is accepted", async || {
        TcpStream::connect(("127.0.0.1", server.port)).await.is_err().then_some(())
    })
    .await;
    let bytes = rest_of(download).await;
    let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(bytes.len() - body, MUCH);
    upload.write_all(&vec![7; MUCH]).await.unwrap();
    let answer = String::from_utf8(rest_of(upload).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with(&format!(r#"{{"bytes":{},"xor":0}}"#, 2 * MUCH)), "{answer}");
    assert_eq!(server.ended().await, Some(0));
    assert_nothing_left(&server);
}

#[tokio::test]
async fn nothing_that_would_never_end_by_itself_holds_a_stop_up() {
    let mut server = Server::start(&[("SHUTDOWN_GRACE", "60s")]).await;
    let demo = server.acquire().await;
    let mut idle = Vec::new();
    for host in ["localhost", demo.host.as_str()] {
        let mut stream = connect(&server).await;
        let head = format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).await.unwrap();
        idle.push(stream);
    }
    idle.push(connect(&server).await);
    let mut socket = connect(&server).await;
    let handshake = format!(
        "GET /live HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        demo.host
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    socket.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 101");
    let status = format!("/api/v1/demo/{}/status", demo.id);
    let mut streams = Vec::new();
    for (host, path) in [("localhost", status.as_str()), ("localhost", "/ready"), (&demo.host, "/events")] {
        let mut events = Events::open(server.port, host, path).await;
        events.block().await.expect("it lives");
        streams.push(events);
    }

    let shared = h2c(server.port).await;
    assert_eq!(h2_get(&shared, &demo.host, "/health").await.status, 200);
    let on_http2 = [
        begin(&shared, &demo.host, "/events").await,
        begin(&shared, &demo.host, "/events").await,
        begin(&shared, "localhost", &status).await,
    ];
    let idle_on_http2 = h2c(server.port).await;

    let start = Instant::now();
    stop(&server).await;
    assert_eq!(server.ended().await, Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_nothing_left(&server);
    drop((on_http2, idle_on_http2));
    for mut events in streams {
        while events.block().await.is_some() {}
    }
}

#[tokio::test]
async fn a_request_beside_streams_of_events_on_one_connection_is_finished() {
    let mut server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let shared = h2c(server.port).await;
    let streams = [begin(&shared, &demo.host, "/events").await, begin(&shared, &demo.host, "/events").await];
    // Nothing of the body is taken yet, so most of it waits in the server.
    let download = begin(&shared, &demo.host, "/download?bytes=4000000").await;
    stop(&server).await;
    eventually("no connection is accepted", async || {
        TcpStream::connect(("127.0.0.1", server.port)).await.is_err().then_some(())
    })
    .await;
    let whole =
        tokio::time::timeout(crate::support::harness::PATIENCE, h2_whole(download)).await.unwrap().unwrap();
    assert_eq!((whole.status, whole.body.len()), (200, 4_000_000));
    assert_eq!(server.ended().await, Some(0));
    assert_nothing_left(&server);
    drop(streams);
}

/// The head of an answer on HTTP/2, its body still to come.
async fn begin(send: &SendRequest<Bytes>, host: &str, path: &str) -> Response<h2::RecvStream> {
    let request = Request::get(format!("http://{host}{path}")).header("accept", "text/event-stream");
    let mut send = send.clone().ready().await.unwrap();
    let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
    tokio::time::timeout(crate::support::harness::PATIENCE, answer).await.expect("an answer").unwrap()
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_after_the_grace() {
    let mut server = Server::start(&[("SHUTDOWN_GRACE", "1s")]).await;
    let demo = server.acquire().await;
    let upload = half_an_upload(&server, &demo).await;
    let start = Instant::now();
    stop(&server).await;
    assert_eq!(server.ended().await, Some(0));
    assert!((1..15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_nothing_left(&server);
    drop(upload);
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once_and_its_instances_with_it() {
    for second in ["TERM", "INT"] {
        let mut server = Server::start(&[]).await;
        let demo = server.acquire().await;
        let upload = half_an_upload(&server, &demo).await;
        stop(&server).await;
        let start = Instant::now();
        server.signal(second);
        assert_eq!(server.ended().await, Some(130));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        eventually("the instances end with it", async || {
            (processes_of(&server.folder).is_empty() && instance_folders(&server.folder).is_empty())
                .then_some(())
        })
        .await;
        drop(upload);
    }
}

#[tokio::test]
async fn a_stop_while_the_pool_is_being_filled_leaves_nothing() {
    for making in [0, 1, 3] {
        let mut server = Server::start_with(&[("POOL_TARGET_SIZE", "10")], &[]).await;
        eventually("instances are being made", async || {
            (processes_of(&server.folder).len() >= making).then_some(())
        })
        .await;
        server.signal("INT");
        assert_eq!(server.ended().await, Some(0));
        assert_nothing_left(&server);
    }
}
