//! A shutdown finishes what is in flight and leaves nothing.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::harness::{
    AcquiredInstance, EventStream, Server, eventually, get, h2_collect, h2_get, h2c, instance_folders,
    processes_of,
};

/// More bytes than all socket buffers on the path hold, so that the server is still forwarding.
const LARGE_BODY: usize = 64 << 20;

/// Asserts that no process and no folder of any instance exists.
#[track_caller]
fn assert_nothing_left(server: &Server) {
    assert_eq!(processes_of(&server.folder), []);
    assert_eq!(instance_folders(&server.folder), Vec::<String>::new());
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port)).await.unwrap()
}

/// Starts an upload and sends half of it.
async fn half_an_upload(server: &Server, instance: &AcquiredInstance) -> TcpStream {
    let mut stream = connect(server).await;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        instance.host,
        2 * LARGE_BODY
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; LARGE_BODY]).await.unwrap();
    stream
}

/// Reads until the connection is closed.
async fn rest_of(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(crate::support::harness::MAX_WAIT, stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    bytes
}

async fn stop(server: &Server) {
    server.signal("TERM");
    server.log_until(|line| line.contains("shutdown started")).await;
}

#[tokio::test]
async fn requests_in_flight_are_finished_and_no_new_ones_are_accepted() {
    let mut server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let mut download = connect(&server).await;
    let head = format!("GET /download?bytes={LARGE_BODY} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
    download.write_all(head.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    download.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let mut upload = half_an_upload(&server, &instance).await;

    stop(&server).await;
    eventually("no connection is accepted", async || {
        TcpStream::connect(("127.0.0.1", server.port)).await.is_err().then_some(())
    })
    .await;
    let bytes = rest_of(download).await;
    let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(bytes.len() - body, LARGE_BODY);
    upload.write_all(&vec![7; LARGE_BODY]).await.unwrap();
    let answer = String::from_utf8(rest_of(upload).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with(&format!(r#"{{"bytes":{},"xor":0}}"#, 2 * LARGE_BODY)), "{answer}");
    assert_eq!(server.wait_for_exit().await, Some(0));
    assert_nothing_left(&server);
}

#[tokio::test]
async fn endless_streams_and_idle_connections_do_not_delay_a_shutdown() {
    let mut server = Server::start(&[("SHUTDOWN_GRACE", "60s")]).await;
    let instance = server.acquire().await;
    let mut idle = Vec::new();
    for host in ["localhost", instance.host.as_str()] {
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
        instance.host
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    socket.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 101");
    let status = format!("/api/v1/demo/{}/status", instance.id);
    let mut streams = Vec::new();
    for (host, path) in [("localhost", status.as_str()), ("localhost", "/ready"), (&instance.host, "/events")]
    {
        let mut events = EventStream::open(server.port, host, path).await;
        events.next_block().await.expect("the stream is open");
        streams.push(events);
    }

    let shared = h2c(server.port).await;
    assert_eq!(h2_get(&shared, &instance.host, "/health").await.status, 200);
    let on_http2 = [
        begin(&shared, &instance.host, "/events").await,
        begin(&shared, &instance.host, "/events").await,
        begin(&shared, "localhost", &status).await,
    ];
    let idle_on_http2 = h2c(server.port).await;

    let start = Instant::now();
    stop(&server).await;
    assert_eq!(server.wait_for_exit().await, Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_nothing_left(&server);
    drop((on_http2, idle_on_http2));
    for mut events in streams {
        while events.next_block().await.is_some() {}
    }
}

#[tokio::test]
async fn a_request_beside_streams_of_events_on_one_connection_is_finished() {
    let mut server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let shared = h2c(server.port).await;
    let streams =
        [begin(&shared, &instance.host, "/events").await, begin(&shared, &instance.host, "/events").await];
    // No byte of the body is read yet, so most of it is buffered in the server.
    let download = begin(&shared, &instance.host, "/download?bytes=4000000").await;
    stop(&server).await;
    eventually("no connection is accepted", async || {
        TcpStream::connect(("127.0.0.1", server.port)).await.is_err().then_some(())
    })
    .await;
    let whole =
        tokio::time::timeout(crate::support::harness::MAX_WAIT, h2_collect(download)).await.unwrap().unwrap();
    assert_eq!((whole.status, whole.body.len()), (200, 4_000_000));
    assert_eq!(server.wait_for_exit().await, Some(0));
    assert_nothing_left(&server);
    drop(streams);
}

/// Sends a request on HTTP/2 and returns the head of the answer, before its body.
async fn begin(send: &SendRequest<Bytes>, host: &str, path: &str) -> Response<h2::RecvStream> {
    let request = Request::get(format!("http://{host}{path}")).header("accept", "text/event-stream");
    let mut send = send.clone().ready().await.unwrap();
    let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
    tokio::time::timeout(crate::support::harness::MAX_WAIT, answer)
        .await
        .expect("the head of the answer")
        .unwrap()
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_after_the_grace_period() {
    let mut server = Server::start(&[("SHUTDOWN_GRACE", "1s")]).await;
    let instance = server.acquire().await;
    let upload = half_an_upload(&server, &instance).await;
    let start = Instant::now();
    stop(&server).await;
    assert_eq!(server.wait_for_exit().await, Some(0));
    assert!((1..15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_nothing_left(&server);
    drop(upload);
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once_and_its_instances_with_it() {
    for second in ["TERM", "INT"] {
        let mut server = Server::start(&[]).await;
        let instance = server.acquire().await;
        let upload = half_an_upload(&server, &instance).await;
        stop(&server).await;
        let start = Instant::now();
        server.signal(second);
        assert_eq!(server.wait_for_exit().await, Some(130));
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
async fn a_shutdown_while_the_pool_is_being_filled_leaves_nothing() {
    for making in [0, 1, 3] {
        let mut server = Server::start_with(&[("POOL_TARGET_SIZE", "10")], &[]).await;
        eventually("instances are warming", async || {
            (processes_of(&server.folder).len() >= making).then_some(())
        })
        .await;
        server.signal("INT");
        assert_eq!(server.wait_for_exit().await, Some(0));
        assert_nothing_left(&server);
    }
}

#[tokio::test]
async fn a_server_whose_instances_end_with_it_is_not_replaced_and_says_why() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    server.signal("USR2");
    server.log_until(|line| line.contains("cannot be replaced") && line.contains("CONTAINER_MODE")).await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
}
