//! An app that misbehaves on demand and keeps every byte that it receives: this test program itself, which the server
//! runs as an instance.
//!
//! ```text
//! /            200 and the id of the instance      /seen        200 and all bytes received so far
//! /no-content, /not-modified, /trailers, /hop, /cookies, /redirect, /early, /until-closed     unusual, but correct answers
//! /reset, /cut, /cut-chunked, /junk, /stray      broken answers
//! /health       500 while the file of [`unhealthy_template`] names the instance or is empty, else 200
//! /raw-HEX, /raw-close-HEX                       these bytes, and then nothing or the end of the connection
//! /endless-head                                  a head without an end
//! /silent, /silent-midway                        no answer, or half of one
//! /silent-stream                                 the head of an event stream, and no event
//! /slow-...                                      three pieces with 1.5 s between two of them, of each type of stream
//! /large, /large-until-closed                    8 MB
//! /head, /range, /gzip, /grpc, /grpc-web         answers with features of HTTP
//! /ws-choice                                     a WebSocket whose handshake chooses an extension and a sub-protocol
//! /interim                                       two interim answers, then 200
//! /stop-listening                                200, and the app accepts no connection from then on
//! /ws                                            a WebSocket whose first bytes come in the packet of its 101
//! /ws-declined, /ws-silent                       a refused handshake, and one without an answer
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The variable that makes this program act as the app.
const ROLE: &str = "TRY_IT_NOW_FAKE_UPSTREAM";

/// The variable with the file that says which instances are unhealthy.
const UNHEALTHY_FILE: &str = "UNHEALTHY_FILE";

/// Returns the templates `default`, which is the app above and may be silent for one second, and `book`, the sample
/// app.
pub fn templates() -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        r#"
        [templates.default]
        command = [{program:?}, "support::harness::fake_upstream::it_serves_as_an_app_when_the_server_runs_it", "--exact", "--nocapture"]
        env = {{ {ROLE} = "1" }}
        silence = "1s"

        [templates.book]
        command = ["try-it-now", "sample-app"]
        "#
    )
}

/// Returns the template `default`, which is the app above with `/health` as its ready check, asked again each second,
/// and with these further keys. Its instances answer 500 there while `file` contains their ids, and all of them while
/// it is empty; not while it does not exist.
pub fn unhealthy_template(file: &Path, more: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        r#"
        [templates.default]
        command = [{program:?}, "support::harness::fake_upstream::it_serves_as_an_app_when_the_server_runs_it", "--exact", "--nocapture"]
        env = {{ {ROLE} = "1", {UNHEALTHY_FILE} = {file:?} }}
        ready = {{ path = "/health", timeout = "2s", recheck_interval = "1s" }}
        {more}
        "#
    )
}

fn is_unhealthy(id: &str) -> bool {
    let listed = std::env::var_os(UNHEALTHY_FILE).and_then(|file| std::fs::read_to_string(file).ok());
    listed.is_some_and(|ids| ids.is_empty() || ids.contains(id))
}

#[derive(Clone)]
struct App {
    seen: Arc<Mutex<Vec<u8>>>,
    stopped: watch::Sender<bool>,
}

#[tokio::test]
async fn it_serves_as_an_app_when_the_server_runs_it() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let app = App { seen: Arc::default(), stopped: watch::Sender::new(false) };
    let mut stopped = app.stopped.subscribe();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                try_it_now::telemetry::task::spawn("fake upstream", connection(app.clone(), stream));
            }
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    drop(listener);
    // The process stays alive until it is killed, but accepts no connection.
    std::future::pending::<()>().await;
}

async fn connection(app: App, mut stream: TcpStream) {
    let mut stopped = app.stopped.subscribe();
    let mut buf = Vec::new();
    loop {
        while !buf.windows(4).any(|four| four == b"\r\n\r\n") {
            let before = buf.len();
            tokio::select! {
                read = stream.read_buf(&mut buf) => match read {
                    Ok(n) if n > 0 => app.seen.lock().extend_from_slice(&buf[before..]),
                    _ => return,
                },
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
        let end = buf.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&buf[..end]).into_owned();
        buf.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or("").split('?').next().unwrap().to_owned();
        if path != "/early" {
            read_body(&app, &mut stream, &head.to_ascii_lowercase(), &mut buf).await;
        }
        if !answer(&app, &mut stream, &path).await {
            return;
        }
    }
}

/// Skips the body. It supports only what these tests send.
async fn read_body(app: &App, stream: &mut TcpStream, head: &str, buf: &mut Vec<u8>) {
    let length = head.split("\r\ncontent-length:").nth(1).map(|rest| rest.split("\r\n").next().unwrap());
    let length: Option<usize> = length.map(|text| text.trim().parse().unwrap());
    let chunked = head.contains("\r\ntransfer-encoding: chunked\r\n");
    loop {
        let end = match length {
            Some(length) => (buf.len() >= length).then_some(length),
            None if chunked => buf.windows(5).position(|five| five == b"0\r\n\r\n").map(|at| at + 5),
            None => Some(0),
        };
        if let Some(end) = end {
            buf.drain(..end);
            return;
        }
        let before = buf.len();
        match stream.read_buf(buf).await {
            Ok(n) if n > 0 => app.seen.lock().extend_from_slice(&buf[before..]),
            _ => return,
        }
    }
}

/// Sends the answer for a path. Returns `false` if the connection ends after it.
async fn answer(app: &App, stream: &mut TcpStream, path: &str) -> bool {
    let id = std::env::var("INSTANCE_ID").unwrap();
    let whole = |body: &[u8]| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(body);
        answer
    };
    let fixed = |text: &str| text.replace('\n', "\r\n").into_bytes();
    let (bytes, next) = match path {
        "/seen" => (whole(&app.seen.lock().clone()), NextStep::Keep),
        "/health" if is_unhealthy(&id) => {
            (fixed("HTTP/1.1 500 Internal Server Error\nContent-Length: 0\n\n"), NextStep::Keep)
        }
        "/no-content" => (fixed("HTTP/1.1 204 No Content\nX-Odd: 1\n\n"), NextStep::Keep),
        "/not-modified" => (fixed("HTTP/1.1 304 Not Modified\nETag: \"x\"\n\n"), NextStep::Keep),
        "/trailers" => (
            fixed("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n5\nhello\n0\nX-Sum: 1\n\n"),
            NextStep::Keep,
        ),
        "/hop" => (
            fixed(
                "HTTP/1.1 200 OK\nConnection: keep-alive, X-Private\nX-Private: 1\nKeep-Alive: timeout=5\n\
                 Proxy-Connection: keep-alive\nUpgrade: h2c\nX-Public: 1\nContent-Length: 2\n\nok",
            ),
            NextStep::Keep,
        ),
        "/cookies" => (
            fixed(
                "HTTP/1.1 200 OK\nSet-Cookie: a=1; Domain=.localhost; Path=/\nSet-Cookie: b=2; HttpOnly\n\
                 Set-Cookie: c=3;domain=example.test\nContent-Length: 2\n\nok",
            ),
            NextStep::Keep,
        ),
        "/redirect" => {
            let (host, port) = (std::env::var("INSTANCE_HOST").unwrap(), std::env::var("PORT").unwrap());
            (
                fixed(&format!(
                    "HTTP/1.1 301 Moved\nLocation: http://{host}:{port}/dir/\nRefresh: 0;url=//{host}:{port}/dir/\n\
                     Content-Location: http://other.example.test:{port}/\nContent-Length: 2\n\nok"
                )),
                NextStep::Keep,
            )
        }
        "/early" => {
            (fixed("HTTP/1.1 413 Too Large\nConnection: close\nContent-Length: 5\n\nlarge"), NextStep::Close)
        }
        "/until-closed" => (fixed("HTTP/1.1 200 OK\n\nuntil the end"), NextStep::Close),
        "/reset" => (Vec::new(), NextStep::Reset),
        "/cut" => (fixed("HTTP/1.1 200 OK\nContent-Length: 1000\n\nhello"), NextStep::Reset),
        "/cut-chunked" => {
            (fixed("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n"), NextStep::Close)
        }
        "/junk" => (b"220 mail.example.test ESMTP\r\n\r\n".to_vec(), NextStep::Close),
        _ if path.starts_with("/raw-") => {
            let text = path.trim_start_matches("/raw-");
            match text.strip_prefix("close-") {
                Some(text) => (hex::decode(text).unwrap(), NextStep::Close),
                None => (hex::decode(text).unwrap(), NextStep::Keep),
            }
        }
        "/endless-head" => {
            let mut answer = fixed("HTTP/1.1 200 OK\nX: ");
            answer.resize(100_000, b'a');
            (answer, NextStep::Keep)
        }
        "/stray" => (
            fixed(
                "HTTP/1.1 200 OK\nContent-Length: 5\n\nfirst\
                 HTTP/1.1 200 OK\nContent-Length: 5\n\nstray",
            ),
            NextStep::Keep,
        ),
        "/silent" | "/ws-silent" => (Vec::new(), NextStep::Hang),
        "/silent-midway" => (fixed("HTTP/1.1 200 OK\nContent-Length: 1000\n\nhello"), NextStep::Hang),
        "/large" => (whole(&vec![b'a'; 8_000_000]), NextStep::Keep),
        "/large-until-closed" => {
            let mut answer = fixed("HTTP/1.1 200 OK\n\n");
            answer.resize(answer.len() + 8_000_000, b'a');
            (answer, NextStep::Close)
        }
        "/head" => (fixed("HTTP/1.1 200 OK\nContent-Length: 12345\n\n"), NextStep::Keep),
        "/range" => (
            fixed(
                "HTTP/1.1 206 Partial Content\nContent-Range: bytes 1-3/10\nETag: \"v1\"\n\
                 Content-Length: 3\n\nbcd",
            ),
            NextStep::Keep,
        ),
        "/gzip" => {
            let mut answer = fixed("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 15\n\n");
            answer.extend_from_slice(b"\x1f\x8b\x08 as it comes");
            (answer, NextStep::Keep)
        }
        "/grpc" => (
            fixed(
                "HTTP/1.1 200 OK\nContent-Type: application/grpc\nTransfer-Encoding: chunked\n\
                 Trailer: grpc-status\n\n7\n\0\0\0\0\x02hi\n0\ngrpc-status: 0\n\n",
            ),
            NextStep::Keep,
        ),
        "/grpc-web" => {
            let mut answer = fixed(
                "HTTP/1.1 200 OK\nContent-Type: application/grpc-web+proto\nX-Grpc-Web: 1\n\
                 Content-Length: 44\n\n",
            );
            answer.extend_from_slice(b"\0\0\0\0\x02hi\x80\0\0\0\x20grpc-status:0\r\ngrpc-message:ok\r\n");
            (answer, NextStep::Keep)
        }
        "/ws-choice" => (
            fixed(
                "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\
                 Sec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Protocol: superchat\n\n",
            ),
            NextStep::Echo,
        ),
        "/interim" => (
            fixed(
                "HTTP/1.1 103 Early Hints\nLink: </a.css>; rel=preload\n\nHTTP/1.1 102 Processing\n\n\
                 HTTP/1.1 200 OK\nContent-Length: 15\n\nafter the hints",
            ),
            NextStep::Keep,
        ),
        "/slow-plain-until-closed" => (fixed("HTTP/1.1 200 OK\n\npiece 1"), NextStep::Hang),
        _ if path.starts_with("/slow-") => {
            let fields = match path {
                "/slow-events" => "Content-Type: text/event-stream; charset=utf-8",
                "/slow-lines" => "Content-Type: application/x-ndjson",
                "/slow-frames" => "Content-Type: multipart/x-mixed-replace; boundary=frame",
                "/slow-grpc" => "Content-Type: application/grpc-web+proto",
                "/slow-sequence" => "Content-Type: application/json-seq",
                "/slow-unbuffered" => "Content-Type: text/plain\nX-Accel-Buffering: no",
                _ => "Content-Type: text/plain",
            };
            let head = format!("HTTP/1.1 200 OK\n{fields}\nTransfer-Encoding: chunked\n\n");
            (fixed(&head), NextStep::Pieces)
        }
        "/silent-stream" => (fixed("HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n"), NextStep::Hang),
        "/stop-listening" => {
            app.stopped.send_replace(true);
            (fixed("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 4\n\ndone"), NextStep::Close)
        }
        "/ws" => (
            fixed(
                "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\
                 Set-Cookie: a=1; Domain=.localhost\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\nfirst",
            ),
            NextStep::Echo,
        ),
        "/ws-declined" => (
            fixed(
                "HTTP/1.1 403 Forbidden\nSet-Cookie: a=1; Domain=.localhost\nContent-Length: 8\n\ndeclined",
            ),
            NextStep::Keep,
        ),
        _ => (whole(id.as_bytes()), NextStep::Keep),
    };
    if stream.write_all(&bytes).await.is_err() {
        return false;
    }
    match next {
        NextStep::Keep => true,
        NextStep::Close => false,
        NextStep::Reset => {
            // The bytes must arrive before the reset.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger().unwrap();
            false
        }
        NextStep::Pieces => {
            for n in 1..=3 {
                if n > 1 {
                    tokio::time::sleep(Duration::from_millis(1_500)).await;
                }
                if stream.write_all(format!("7\r\npiece {n}\r\n").as_bytes()).await.is_err() {
                    return false;
                }
            }
            stream.write_all(b"0\r\n\r\n").await.is_ok()
        }
        NextStep::Hang => {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            false
        }
        NextStep::Echo => {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            false
        }
    }
}

/// What the app does with the connection after an answer.
enum NextStep {
    Keep,
    Close,
    Reset,
    Hang,
    Pieces,
    Echo,
}
