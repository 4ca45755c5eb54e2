//! Two servers on one Valkey: what one runs can be visited through the other, at once and by all ways.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::valkey::address;
use crate::support::harness::{
    Answer, Certificate, Demo, Events, PATIENCE, Server, Wire, eventually, get, h2_ask, h2_get, h2_over,
    h2_whole, h2c, raw, request, websocket,
};
use crate::support::valkey_server::{Keeps, Server as Valkey};

/// Acquires, each visited through the other server before anything else happens.
const ACQUIRES: usize = 100;
const MEGABYTES: usize = 10;
/// Longest time until a visitor is told that a server is gone: the longest time to connect, and what a busy machine adds.
const SOON: Duration = Duration::from_millis(2_500);

/// Two servers of one Valkey that trust nobody, not even this host.
async fn two(valkey: &Valkey) -> (Server, Server) {
    let settings = [("VALKEY_ADDR", &*address(valkey)), ("TRUSTED_PROXIES", "192.0.2.1")];
    (Server::start(&settings).await, Server::start(&settings).await)
}

/// Requests that a server passed on.
async fn passed_on(server: &Server) -> u64 {
    let page = server.call("GET", "/metrics", "").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix("demo_requests_passed_on_total "));
    line.unwrap().parse().unwrap()
}

/// `GET path` from another address of this host than the servers have.
async fn get_from_afar(port: u16, host: &str, path: &str, fields: &str) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let mut wire = Wire::over(stream);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
    wire.answer().await
}

#[tokio::test]
async fn an_acquire_on_one_server_is_visited_through_the_other_with_no_failed_request_in_between() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (one, other) = two(&valkey).await;
    for n in 0..ACQUIRES {
        let (owner, way) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let demo = owner.acquire().await;
        // The very first request of each kind, on a connection of its own, while the news of the route is on its way.
        match n / 2 % 4 {
            0 => {
                let seen = get(way.port, &demo.host, "/whoami").await;
                assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(demo.id)), "acquire {n}");
            }
            1 => {
                let seen = h2_get(&h2c(way.port).await, &demo.host, "/whoami").await;
                assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(demo.id)), "acquire {n}");
            }
            2 => {
                let mut socket = websocket::open(Wire::connect(way.port).await, &demo).await;
                websocket::echo(&mut socket, &format!("acquire {n}")).await;
            }
            _ => {
                let mut events = Events::open(way.port, &demo.host, "/events").await;
                assert_eq!(events.status, 200, "acquire {n}");
                assert!(events.block().await.is_some(), "acquire {n}");
            }
        }
        assert_eq!(get(owner.port, &demo.host, "/whoami").await.status, 200, "acquire {n}");
        let released = way.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await;
        assert_eq!(released.status, 200, "acquire {n}");
    }
    // Each was visited through both, and one of them runs it: mostly the one that handed it out, but not always.
    assert_eq!(passed_on(&one).await + passed_on(&other).await, ACQUIRES as u64);
}

#[tokio::test]
async fn what_one_server_hands_out_of_the_other_is_visited_through_either() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let settings = [("VALKEY_ADDR", &*address(&valkey)), ("POOL_TARGET_SIZE", "0"), ("POOL_MIN_SIZE", "0")];
    let empty = Server::start(&settings).await;
    // A server that the first has not heard of when it hands out what it made.
    let full = Server::start_with(&[("VALKEY_ADDR", &*address(&valkey))], &[]).await;
    let demo = eventually("something is ready there", async || {
        let stats = empty.stats().await;
        (stats["ready"] != 0).then_some(())?;
        Some(empty.acquire().await)
    })
    .await;
    for server in [&empty, &full] {
        let seen = get(server.port, &demo.host, "/whoami").await;
        assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(demo.id)), "{}", seen.text());
    }
    assert_eq!((passed_on(&empty).await, passed_on(&full).await), (1, 0));
}

#[tokio::test]
async fn ten_megabytes_go_through_another_server_unchanged_in_both_directions() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (owner, other) = two(&valkey).await;
    let demo = owner.acquire().await;
    let bytes = MEGABYTES << 20;
    for query in ["", "&chunked=1"] {
        let path = format!("/download?bytes={bytes}{query}");
        let straight = get(owner.port, &demo.host, &path).await;
        let passed = get(other.port, &demo.host, &path).await;
        assert_eq!((passed.status, passed.body.len()), (200, bytes));
        assert!(passed.body == straight.body, "the same bytes");
        let by_h2 = h2_get(&h2c(other.port).await, &demo.host, &path).await;
        assert!(by_h2.body == straight.body, "the same bytes over HTTP/2");
    }
    let body: Vec<u8> = (0..bytes).map(|n| (n * 7 % 253) as u8).collect();
    let sum = body.iter().fold(0, |sum, byte| sum ^ byte);
    let is_whole = |answer: Answer, how: &str| {
        assert_eq!((answer.status, answer.json()), (200, json!({ "bytes": bytes, "xor": sum })), "{how}");
    };
    let mut wire = Wire::connect(other.port).await;
    wire.send(format!("POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\n\r\n", demo.host))
        .await;
    wire.send(&body).await;
    is_whole(wire.answer().await, "with a length");
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        demo.host
    );
    wire.send(head).await;
    assert_eq!(wire.head().await.status, 100);
    for (n, chunk) in body.chunks(100_003).enumerate() {
        wire.send(format!("{:x}\r\n", chunk.len())).await;
        wire.send(chunk).await;
        wire.send(if n % 2 == 0 { "\r\n" } else { "\r" }).await;
        if n % 2 == 1 {
            wire.send("\n").await;
        }
    }
    wire.send("0\r\n\r\n").await;
    is_whole(wire.answer().await, "in chunks, on the connection of the first");
    let mut send = h2c(other.port).await.ready().await.unwrap();
    let upload = Request::post(format!("http://{}/upload", demo.host)).body(()).unwrap();
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
    timeout(PATIENCE, uploading).await.unwrap();
    is_whole(h2_whole(answer.await.unwrap()).await.unwrap(), "over HTTP/2 without a length");
    assert_eq!(passed_on(&other).await, 7);
}

#[tokio::test]
async fn events_and_messages_come_one_by_one_through_another_server() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (owner, other) = two(&valkey).await;
    let demo = owner.acquire().await;
    let begun = Instant::now();
    let mut events = Events::open(other.port, &demo.host, "/events").await;
    for n in 0..3 {
        let block = events.block().await.unwrap();
        assert!(block.contains(&format!(r#""n":{n}"#)), "{block}");
        // The event with number n is made n seconds after the first.
        assert!(begun.elapsed().as_secs_f64() < n as f64 + 0.9, "event {n} is late");
    }
    let mut socket = websocket::open(Wire::connect(other.port).await, &demo).await;
    for n in 0..100 {
        websocket::echo(&mut socket, &format!("message {n}")).await;
    }
    // Ended by the owner's word, wherever the tunnel's visitor is.
    assert_eq!(owner.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    websocket::ended(&mut socket).await;
    assert_eq!(get(other.port, &demo.host, "/").await.status, 404);
}

#[tokio::test]
async fn an_app_learns_of_the_visitor_through_a_server_and_from_nobody_else() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (owner, other) = two(&valkey).await;
    let demo = owner.acquire().await;
    let forged = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-ID: mine\r\n";
    let hops = ["", "X-Try-It-Now-Hop: 1\r\n", "X-Try-It-Now-Hop: v1.a.1.ff\r\nX-Try-It-Now-Hop: x\r\n"];
    for (server, hop) in hops.iter().map(|hop| (&owner, *hop)).chain([(&other, "")]) {
        let fields = format!("{forged}{hop}");
        let seen = get_from_afar(server.port, &demo.host, "/whoami", &fields).await;
        assert_eq!((seen.status, seen.header("x-request-id")), (200, "mine"), "{hop}");
        let fields = seen.json()["headers"].clone();
        assert_eq!(fields["x-forwarded-for"], json!(["127.0.0.2"]), "{hop}");
        assert_eq!(fields["x-forwarded-proto"], json!(["http"]), "{hop}");
        assert_eq!(fields["x-forwarded-host"], json!([demo.host]), "{hop}");
        assert_eq!(fields["host"], json!([demo.host]), "{hop}");
        assert_eq!(fields["x-request-id"], json!(["mine"]), "{hop}");
        assert!(!fields.as_object().unwrap().contains_key("x-try-it-now-hop"), "{hop}");
        assert!(fields["x-demo-expires-at"].is_array(), "{hop}");
    }
    // What asks to be passed on twice is not passed on at all.
    let refused = get_from_afar(other.port, &demo.host, "/whoami", hops[1]).await;
    assert_eq!((refused.status, passed_on(&other).await), (502, 1));
}

#[tokio::test]
async fn a_server_whose_address_leads_back_to_the_sender_gives_an_error_and_no_loop() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let sender = Server::start(&[("VALKEY_ADDR", &*address(&valkey))]).await;
    let wrong = format!("127.0.0.1:{}", sender.port);
    let settings = [("VALKEY_ADDR", &*address(&valkey)), ("NODE_ADDR", &*wrong)];
    let owner = Server::start(&settings).await;
    let demo = owner.acquire().await;
    assert_eq!(get(owner.port, &demo.host, "/").await.status, 200);
    let begun = Instant::now();
    let asked = request(sender.port, "GET", &demo.host, "/", &[("accept", "application/json")], "").await;
    asked.refused(502, "INSTANCE_UNREACHABLE");
    let head = websocket::handshake(&mut Wire::connect(sender.port).await, &demo.host, "/live", "").await;
    assert_eq!(head.status, 502);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(passed_on(&sender).await, 2);
}

#[tokio::test]
async fn visitors_of_a_server_that_was_killed_are_told_quickly() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (mut owner, other) = two(&valkey).await;
    let demo = owner.acquire().await;
    assert_eq!(get(other.port, &demo.host, "/").await.status, 200);
    let mut socket = websocket::open(Wire::connect(other.port).await, &demo).await;
    websocket::echo(&mut socket, "before").await;
    let mut events = Events::open(other.port, &demo.host, "/events").await;
    assert!(events.block().await.is_some());
    owner.signal("KILL");
    owner.ended().await;
    let begun = Instant::now();
    let page = get(other.port, &demo.host, "/").await;
    let took = begun.elapsed();
    assert_eq!(page.status, 502, "{}", page.text());
    assert!(page.text().contains("does not answer right now"));
    assert!(took < SOON, "{took:?}");
    while events.block().await.is_some() {}
    // The socket may be told of the end before it is asked.
    let _ = socket.send(Message::text("after")).await;
    timeout(PATIENCE, async { while let Some(Ok(_)) = socket.next().await {} }).await.expect("the end");
    eventually("its instances are over", async || {
        (get(other.port, &demo.host, "/").await.status == 410).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_an_app_wrote_is_told_by_either_server() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let settings = [("VALKEY_ADDR", &*address(&valkey)), ("API_KEY", "k")];
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let talks = format!(
        "[templates.default]\ncommand = [\"sh\", \"-c\", \"echo I am $INSTANCE_ID; exec {program} sample-app\"]"
    );
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Server::with_file(&settings, &talks).await);
    }
    let (owner, other) = (&servers[0], &servers[1]);
    let key = [("x-api-key", "k")];
    let demo = eventually("something is ready there", async || {
        let answer = owner.ask("POST", "/api/v1/demo/acquire", &key, "").await;
        (answer.status == 200).then(|| Demo::from_json(&answer.json()))
    })
    .await;
    let path = format!("/api/v1/demo/{}/logs", demo.id);
    let told = owner.ask("GET", &path, &key, "").await;
    assert_eq!((told.status, told.text().trim()), (200, &*format!("I am {}", demo.id)));
    for server in [owner, other] {
        let here = server.ask("GET", &path, &key, "").await;
        assert_eq!((here.status, here.header("content-type")), (200, told.header("content-type")));
        assert_eq!(here.body, told.body);
        server.ask("GET", &path, &[], "").await.refused(401, "UNAUTHORIZED");
        let nobody = "/api/v1/demo/default-aaaaaaaaaaaaaaaa/logs";
        server.ask("GET", nobody, &key, "").await.refused(404, "NOT_FOUND");
    }
    // What says that it comes from a server is answered from what the asked one knows: that is the owner only. Over
    // HTTP/2 it is Pingora that has the API run.
    let (mut by_http1, mut by_h2) = (Vec::new(), Vec::new());
    for server in [owner, other] {
        let hop = [("x-api-key", "k"), ("x-try-it-now-hop", "1")];
        by_http1.push(server.ask("GET", &path, &hop, "").await.status);
        let send = h2c(server.port).await;
        for (hop, statuses) in [(None, &mut Vec::new()), (Some("1"), &mut by_h2)] {
            let mut request = Request::get(format!("http://localhost{path}")).header("x-api-key", "k");
            if let Some(hop) = hop {
                request = request.header("x-try-it-now-hop", hop);
            }
            let answer = h2_ask(&send, request.body(()).unwrap()).await.unwrap();
            assert!(hop.is_some() || answer.body == told.body);
            statuses.push(answer.status);
        }
    }
    for mut statuses in [by_http1, by_h2] {
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404]);
    }
}

/// An answer as it is on the wire, up to the end of the connection, without what differs from one request to the next:
/// its first line, its fields in the order of the alphabet, and all that follows.
async fn on_the_wire(port: u16, host: &str, first_line: &str) -> (String, Vec<String>, String) {
    let asked =
        format!("{first_line}\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    let answer = raw(port, asked.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{first_line}: {answer}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().to_owned();
    let mut fields: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    let id = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id")).unwrap().1;
    let is_own = |name: &str| ["x-request-id", "date"].iter().any(|own| name.eq_ignore_ascii_case(own));
    let fields =
        fields.iter().filter(|(name, _)| !is_own(name)).map(|(name, value)| format!("{name}: {value}"));
    (status, fields.collect(), body.replace(id, "ID"))
}

#[tokio::test]
async fn whatever_an_app_answers_is_the_same_through_another_server() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let settings = [("VALKEY_ADDR", &*address(&valkey))];
    let (owner, other) = (Server::with_stand_in(&settings).await, Server::with_stand_in(&settings).await);
    let (odd, book) = (owner.acquire().await, owner.acquire_of("book").await);
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
                // The stand-in answers it with a body, which is no HTTP.
                continue;
            }
            let first_line = format!("{method} {path} HTTP/1.1");
            let here = on_the_wire(owner.port, &odd.host, &first_line).await;
            assert_eq!(on_the_wire(other.port, &odd.host, &first_line).await, here, "{first_line}");
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
        let here = on_the_wire(owner.port, &book.host, &first_line).await;
        assert_eq!(on_the_wire(other.port, &book.host, &first_line).await, here, "{first_line}");
    }
}

#[tokio::test]
async fn servers_with_tls_pass_visitors_on_over_tls() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let certificate = Certificate::new();
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    certificate.write(&cert, &key);
    let valkey_address = address(&valkey);
    let settings = [
        ("VALKEY_ADDR", &*valkey_address),
        ("TLS_CERT", cert.to_str().unwrap()),
        ("TLS_KEY", key.to_str().unwrap()),
    ];
    let (one, other) = (Server::start_with(&settings, &[]).await, Server::start_with(&settings, &[]).await);
    let demo = certificate.acquire(one.port).await;
    let mut told = Vec::new();
    for server in [&one, &other] {
        let mut wire = Wire::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
        for path in ["/whoami", "/whoami?again"] {
            let seen = wire.get(&demo.host, path).await;
            assert_eq!((seen.status, &seen.json()["id"]), (200, &json!(demo.id)), "{}", seen.text());
            assert_eq!(seen.json()["headers"]["x-forwarded-proto"], json!(["https"]));
        }
        let send = h2_over(certificate.connect(server.port, &["h2"]).await.unwrap()).await;
        assert_eq!(h2_get(&send, &demo.host, "/download?bytes=1000000").await.body.len(), 1_000_000);
        let wire = Wire::over(certificate.connect(server.port, &["http/1.1"]).await.unwrap());
        let mut socket = websocket::open(wire, &demo).await;
        websocket::echo(&mut socket, &"x".repeat(10_000)).await;
        let mut wire = Wire::over(certificate.connect(server.port, &[]).await.unwrap());
        told.push(wire.get("localhost", &format!("/api/v1/demo/{}/logs", demo.id)).await.status);
        let page = wire.get("localhost", "/metrics").await.text();
        told.push(if page.contains("\ndemo_requests_passed_on_total 4\n") { 1 } else { 0 });
    }
    told.sort_unstable();
    assert_eq!(told, [0, 1, 200, 200], "one of them passed on all that came to it");
    std::fs::remove_dir_all(folder).unwrap();
}
