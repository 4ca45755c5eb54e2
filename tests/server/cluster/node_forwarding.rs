//! Two servers with one Valkey: an instance of one can be visited through the other immediately and over every
//! protocol.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::support::harness::{
    AcquiredInstance, Answer, Certificate, EventStream, MAX_WAIT, RawConnection, Server, eventually, get,
    h2_collect, h2_get, h2_over, h2_request, h2c, request, send_raw, websocket,
};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// The number of acquires. Each instance is visited through the other server first.
const ACQUIRES: usize = 100;
const MEGABYTES: usize = 10;
/// The longest time until a visitor gets an error after a server is gone: the connect timeout plus the delay of a busy
/// machine.
const MAX_ERROR_TIME: Duration = Duration::from_millis(2_500);

/// Starts two servers with one Valkey that trust no proxy, not even on this host.
async fn two_servers(valkey: &ValkeyServer) -> (Server, Server) {
    let settings = [("VALKEY_ADDR", &*valkey.host_and_port()), ("TRUSTED_PROXIES", "192.0.2.1")];
    (Server::start(&settings).await, Server::start(&settings).await)
}

/// Returns how many requests a server has forwarded to another.
async fn forwarded_count(server: &Server) -> u64 {
    let page = server.call("GET", "/metrics", "").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix("demo_requests_passed_on_total "));
    line.unwrap().parse().unwrap()
}

/// Sends `GET path` from another address of this host than the servers have.
async fn get_from_other_address(port: u16, host: &str, path: &str, fields: &str) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let mut connection = RawConnection::over(stream);
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
    connection.read_answer().await
}

#[tokio::test]
async fn an_acquire_on_one_server_is_visited_through_the_other_with_no_failed_request_in_between() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (one, other) = two_servers(&valkey).await;
    for n in 0..ACQUIRES {
        let (owner, other_server) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let instance = owner.acquire().await;
        // The first request of each kind, on a connection of its own, while the route event is still on its way.
        match n / 2 % 4 {
            0 => {
                let seen = get(other_server.port, &instance.host, "/whoami").await;
                assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(instance.id)), "acquire {n}");
            }
            1 => {
                let seen = h2_get(&h2c(other_server.port).await, &instance.host, "/whoami").await;
                assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(instance.id)), "acquire {n}");
            }
            2 => {
                let mut socket =
                    websocket::open(RawConnection::connect(other_server.port).await, &instance).await;
                websocket::echo(&mut socket, &format!("acquire {n}")).await;
            }
            _ => {
                let mut events = EventStream::open(other_server.port, &instance.host, "/events").await;
                assert_eq!(events.status, 200, "acquire {n}");
                assert!(events.next_block().await.is_some(), "acquire {n}");
            }
        }
        assert_eq!(get(owner.port, &instance.host, "/whoami").await.status, 200, "acquire {n}");
        let released = other_server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await;
        assert_eq!(released.status, 200, "acquire {n}");
    }
    // Each instance was visited through both servers, and one of them runs it. Mostly that is the one that assigned it,
    // but not always.
    assert_eq!(forwarded_count(&one).await + forwarded_count(&other).await, ACQUIRES as u64);
}

#[tokio::test]
async fn an_instance_that_one_server_assigns_and_the_other_runs_is_visited_through_either() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let settings =
        [("VALKEY_ADDR", &*valkey.host_and_port()), ("POOL_TARGET_SIZE", "0"), ("POOL_MIN_SIZE", "0")];
    let empty = Server::start(&settings).await;
    // The first server does not know of this one yet when it assigns the instances that it provisioned.
    let full = Server::start_with(&[("VALKEY_ADDR", &*valkey.host_and_port())], &[]).await;
    let instance = eventually("an instance is ready", async || {
        let stats = empty.stats().await;
        (stats["ready"] != 0).then_some(())?;
        Some(empty.acquire().await)
    })
    .await;
    for server in [&empty, &full] {
        let seen = get(server.port, &instance.host, "/whoami").await;
        assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(instance.id)), "{}", seen.text());
    }
    assert_eq!((forwarded_count(&empty).await, forwarded_count(&full).await), (1, 0));
}

#[tokio::test]
async fn ten_megabytes_go_through_another_server_unchanged_in_both_directions() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (owner, other) = two_servers(&valkey).await;
    let instance = owner.acquire().await;
    let bytes = MEGABYTES << 20;
    for query in ["", "&chunked=1"] {
        let path = format!("/download?bytes={bytes}{query}");
        let direct = get(owner.port, &instance.host, &path).await;
        let forwarded = get(other.port, &instance.host, &path).await;
        assert_eq!((forwarded.status, forwarded.body.len()), (200, bytes));
        assert!(forwarded.body == direct.body, "the same bytes");
        let by_h2 = h2_get(&h2c(other.port).await, &instance.host, &path).await;
        assert!(by_h2.body == direct.body, "the same bytes over HTTP/2");
    }
    let body: Vec<u8> = (0..bytes).map(|n| (n * 7 % 253) as u8).collect();
    let sum = body.iter().fold(0, |sum, byte| sum ^ byte);
    let is_whole = |answer: Answer, how: &str| {
        assert_eq!((answer.status, answer.json()), (200, json!({ "bytes": bytes, "xor": sum })), "{how}");
    };
    let mut connection = RawConnection::connect(other.port).await;
    connection
        .send(format!("POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\n\r\n", instance.host))
        .await;
    connection.send(&body).await;
    is_whole(connection.read_answer().await, "with a length");
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        instance.host
    );
    connection.send(head).await;
    assert_eq!(connection.read_head().await.status, 100);
    for (n, chunk) in body.chunks(100_003).enumerate() {
        connection.send(format!("{:x}\r\n", chunk.len())).await;
        connection.send(chunk).await;
        connection.send(if n % 2 == 0 { "\r\n" } else { "\r" }).await;
        if n % 2 == 1 {
            connection.send("\n").await;
        }
    }
    connection.send("0\r\n\r\n").await;
    is_whole(connection.read_answer().await, "in chunks, on the connection of the first");
    let mut send = h2c(other.port).await.ready().await.unwrap();
    let upload = Request::post(format!("http://{}/upload", instance.host)).body(()).unwrap();
    let (answer, mut stream) = send.send_request(upload, false).unwrap();
    let uploading = async {
        for piece in body.chunks(64 << 10) {
            let mut piece = Bytes::copy_from_slice(piece);
            while !piece.is_empty() {
                stream.reserve_capacity(piece.len());
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                stream.send_data(piece.split_to(room.min(piece.len())), false).unwrap();
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
    };
    timeout(MAX_WAIT, uploading).await.unwrap();
    is_whole(h2_collect(answer.await.unwrap()).await.unwrap(), "over HTTP/2 without a length");
    assert_eq!(forwarded_count(&other).await, 7);
}

#[tokio::test]
async fn events_and_messages_come_one_by_one_through_another_server() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (owner, other) = two_servers(&valkey).await;
    let instance = owner.acquire().await;
    let begun = Instant::now();
    let mut events = EventStream::open(other.port, &instance.host, "/events").await;
    for n in 0..3 {
        let block = events.next_block().await.unwrap();
        assert!(block.contains(&format!(r#""n":{n}"#)), "{block}");
        // The app sends event n n seconds after the first.
        assert!(begun.elapsed().as_secs_f64() < n as f64 + 0.9, "event {n} is late");
    }
    let mut socket = websocket::open(RawConnection::connect(other.port).await, &instance).await;
    for n in 0..100 {
        websocket::echo(&mut socket, &format!("message {n}")).await;
    }
    // A release at the owner ends the tunnel at the other server.
    assert_eq!(owner.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    websocket::wait_for_close(&mut socket).await;
    assert_eq!(get(other.port, &instance.host, "/").await.status, 404);
}

#[tokio::test]
async fn an_app_gets_the_address_of_the_visitor_only_from_a_server() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (owner, other) = two_servers(&valkey).await;
    let instance = owner.acquire().await;
    let forged = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-ID: mine\r\n";
    let hops = ["", "X-Try-It-Now-Hop: 1\r\n", "X-Try-It-Now-Hop: v1.a.1.ff\r\nX-Try-It-Now-Hop: x\r\n"];
    for (server, hop) in hops.iter().map(|hop| (&owner, *hop)).chain([(&other, "")]) {
        let fields = format!("{forged}{hop}");
        let seen = get_from_other_address(server.port, &instance.host, "/whoami", &fields).await;
        assert_eq!((seen.status, seen.header("x-request-id")), (200, "mine"), "{hop}");
        let fields = seen.json()["headers"].clone();
        assert_eq!(fields["x-forwarded-for"], json!(["127.0.0.2"]), "{hop}");
        assert_eq!(fields["x-forwarded-proto"], json!(["http"]), "{hop}");
        assert_eq!(fields["x-forwarded-host"], json!([instance.host]), "{hop}");
        assert_eq!(fields["host"], json!([instance.host]), "{hop}");
        assert_eq!(fields["x-request-id"], json!(["mine"]), "{hop}");
        assert!(!fields.as_object().unwrap().contains_key("x-try-it-now-hop"), "{hop}");
        assert!(fields["x-demo-expires-at"].is_array(), "{hop}");
    }
    // A request that claims to be forwarded already is not forwarded again.
    let refused = get_from_other_address(other.port, &instance.host, "/whoami", hops[1]).await;
    assert_eq!((refused.status, forwarded_count(&other).await), (502, 1));
}

#[tokio::test]
async fn a_server_whose_address_leads_back_to_the_sender_gives_an_error_and_no_loop() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let sender = Server::start(&[("VALKEY_ADDR", &*valkey.host_and_port())]).await;
    let wrong = format!("127.0.0.1:{}", sender.port);
    let settings = [("VALKEY_ADDR", &*valkey.host_and_port()), ("NODE_ADDR", &*wrong)];
    let owner = Server::start(&settings).await;
    let instance = owner.acquire().await;
    assert_eq!(get(owner.port, &instance.host, "/").await.status, 200);
    let begun = Instant::now();
    let asked = request(sender.port, "GET", &instance.host, "/", &[("accept", "application/json")], "").await;
    asked.assert_error(502, "INSTANCE_UNREACHABLE");
    let head =
        websocket::handshake(&mut RawConnection::connect(sender.port).await, &instance.host, "/live", "")
            .await;
    assert_eq!(head.status, 502);
    assert!(begun.elapsed() < MAX_ERROR_TIME, "{:?}", begun.elapsed());
    assert_eq!(forwarded_count(&sender).await, 2);
}

#[tokio::test]
async fn visitors_of_a_killed_server_get_an_error_quickly() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (mut owner, other) = two_servers(&valkey).await;
    let instance = owner.acquire().await;
    assert_eq!(get(other.port, &instance.host, "/").await.status, 200);
    let mut socket = websocket::open(RawConnection::connect(other.port).await, &instance).await;
    websocket::echo(&mut socket, "before").await;
    let mut events = EventStream::open(other.port, &instance.host, "/events").await;
    assert!(events.next_block().await.is_some());
    owner.signal("KILL");
    owner.wait_for_exit().await;
    let begun = Instant::now();
    let page = get(other.port, &instance.host, "/").await;
    let took = begun.elapsed();
    assert_eq!(page.status, 502, "{}", page.text());
    assert!(page.text().contains("does not answer right now"));
    assert!(took < MAX_ERROR_TIME, "{took:?}");
    while events.next_block().await.is_some() {}
    // The socket may be closed before the message is sent.
    let _ = socket.send(Message::text("after")).await;
    timeout(MAX_WAIT, async { while let Some(Ok(_)) = socket.next().await {} })
        .await
        .expect("the socket is closed");
    eventually("its instances have ended", async || {
        (get(other.port, &instance.host, "/").await.status == 410).then_some(())
    })
    .await;
}

#[tokio::test]
async fn either_server_returns_the_log_of_an_app() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let settings = [("VALKEY_ADDR", &*valkey.host_and_port()), ("API_KEY", "k")];
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let templates = format!(
        "[templates.default]\ncommand = [\"sh\", \"-c\", \"echo I am $INSTANCE_ID; exec {program} sample-app\"]"
    );
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Server::with_file(&settings, &templates).await);
    }
    let (owner, other) = (&servers[0], &servers[1]);
    let key = [("x-api-key", "k")];
    let instance = eventually("an instance is ready", async || {
        let answer = owner.request("POST", "/api/v1/demo/acquire", &key, "").await;
        (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
    })
    .await;
    let path = format!("/api/v1/demo/{}/logs", instance.id);
    let log = owner.request("GET", &path, &key, "").await;
    assert_eq!((log.status, log.text().trim()), (200, &*format!("I am {}", instance.id)));
    for server in [owner, other] {
        let here = server.request("GET", &path, &key, "").await;
        assert_eq!((here.status, here.header("content-type")), (200, log.header("content-type")));
        assert_eq!(here.body, log.body);
        server.request("GET", &path, &[], "").await.assert_error(401, "UNAUTHORIZED");
        let unknown = "/api/v1/demo/default-aaaaaaaaaaaaaaaa/logs";
        server.request("GET", unknown, &key, "").await.assert_error(404, "NOT_FOUND");
    }
    // A request that claims to come from a server is answered only from what the server itself knows, so only the owner
    // has the log. Over HTTP/2 the request reaches the API through Pingora.
    let (mut by_http1, mut by_h2) = (Vec::new(), Vec::new());
    for server in [owner, other] {
        let hop = [("x-api-key", "k"), ("x-try-it-now-hop", "1")];
        by_http1.push(server.request("GET", &path, &hop, "").await.status);
        let send = h2c(server.port).await;
        for (hop, statuses) in [(None, &mut Vec::new()), (Some("1"), &mut by_h2)] {
            let mut request = Request::get(format!("http://localhost{path}")).header("x-api-key", "k");
            if let Some(hop) = hop {
                request = request.header("x-try-it-now-hop", hop);
            }
            let answer = h2_request(&send, request.body(()).unwrap()).await.unwrap();
            assert!(hop.is_some() || answer.body == log.body);
            statuses.push(answer.status);
        }
    }
    for mut statuses in [by_http1, by_h2] {
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404]);
    }
}

/// Returns the raw answer without what differs between requests: its first line, its fields in alphabetical order with
/// names in lower case (two engines carry answers, and the case has no meaning), and everything after them.
async fn raw_response(port: u16, host: &str, first_line: &str) -> (String, Vec<String>, String) {
    let asked =
        format!("{first_line}\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    let answer = send_raw(port, asked.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{first_line}: {answer}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().to_owned();
    let mut fields: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    let id = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id")).unwrap().1;
    let is_own = |name: &str| ["x-request-id", "date"].iter().any(|own| name.eq_ignore_ascii_case(own));
    let fields = fields
        .iter()
        .filter(|(name, _)| !is_own(name))
        .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()));
    (status, fields.collect(), body.replace(id, "ID"))
}

#[tokio::test]
async fn the_answers_of_an_app_are_the_same_through_another_server() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let settings = [("VALKEY_ADDR", &*valkey.host_and_port())];
    let (owner, other) =
        (Server::with_fake_upstream(&settings).await, Server::with_fake_upstream(&settings).await);
    let (fake, book) = (owner.acquire().await, owner.acquire_of("book").await);
    for path in [
        "/",
        "/no-content",
        "/not-modified",
        "/trailers",
        "/hop",
        "/cookies",
        "/early",
        "/until-closed",
        "/reset",
        "/junk",
        "/cut",
        "/cut-chunked",
        "/silent",
        "/silent-midway",
    ] {
        for method in ["GET", "HEAD", "POST"] {
            if method == "HEAD" && path != "/no-content" {
                // The fake upstream answers HEAD with a body, which is not valid HTTP.
                continue;
            }
            let first_line = format!("{method} {path} HTTP/1.1");
            let here = raw_response(owner.port, &fake.host, &first_line).await;
            assert_eq!(raw_response(other.port, &fake.host, &first_line).await, here, "{first_line}");
        }
    }
    for first_line in [
        "GET /download?bytes=100000&chunked=1 HTTP/1.0".to_owned(),
        "GET /download?bytes=100000 HTTP/1.0".to_owned(),
        "HEAD /health HTTP/1.1".to_owned(),
        format!("GET http://{}/health HTTP/1.1", book.host),
        "GET /whoami?/a%2Fb//../%00?x=%0d%0a&y HTTP/1.1".to_owned(),
        "DELETE /whoami HTTP/1.1".to_owned(),
    ] {
        let here = raw_response(owner.port, &book.host, &first_line).await;
        assert_eq!(raw_response(other.port, &book.host, &first_line).await, here, "{first_line}");
    }
}

#[tokio::test]
async fn servers_with_tls_forward_requests_over_tls() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let certificate = Certificate::new();
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    certificate.write(&cert, &key);
    let valkey_address = valkey.host_and_port();
    let settings = [
        ("VALKEY_ADDR", &*valkey_address),
        ("TLS_CERT", cert.to_str().unwrap()),
        ("TLS_KEY", key.to_str().unwrap()),
    ];
    let (one, other) = (Server::start_with(&settings, &[]).await, Server::start_with(&settings, &[]).await);
    let instance = certificate.acquire(one.port).await;
    let mut log = Vec::new();
    for server in [&one, &other] {
        let mut connection =
            RawConnection::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
        for path in ["/whoami", "/whoami?again"] {
            let seen = connection.get(&instance.host, path).await;
            assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(instance.id)), "{}", seen.text());
            assert_eq!(seen.json()["headers"]["x-forwarded-proto"], json!(["https"]));
        }
        let send = h2_over(certificate.connect(server.port, &["h2"]).await.unwrap()).await;
        assert_eq!(h2_get(&send, &instance.host, "/download?bytes=1000000").await.body.len(), 1_000_000);
        let connection = RawConnection::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
        let mut socket = websocket::open(connection, &instance).await;
        websocket::echo(&mut socket, &"x".repeat(10_000)).await;
        let mut connection = RawConnection::over(certificate.connect(server.port, &[]).await.unwrap());
        log.push(connection.get("localhost", &format!("/api/v1/demo/{}/logs", instance.id)).await.status);
        let page = connection.get("localhost", "/metrics").await.text();
        log.push(if page.contains("\ndemo_requests_passed_on_total 4\n") { 1 } else { 0 });
    }
    log.sort_unstable();
    assert_eq!(log, [0, 1, 200, 200], "one server forwarded all its requests");
    std::fs::remove_dir_all(folder).unwrap();
}
