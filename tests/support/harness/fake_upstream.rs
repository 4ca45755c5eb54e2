//! An app that misbehaves on demand and keeps every byte that it receives: this test program itself, which the server
//! runs as an instance.
//!
//! ```text
//! /            200 and the id of the instance      /seen        200 and all bytes received so far
//! /no-content, /not-modified, /trailers, /hop, /cookies, /redirect, /early, /until-closed     unusual, but correct answers
//! /reset, /cut, /cut-chunked, /junk, /stray      broken answers
//! /silent, /silent-midway                        no answer, or half of one
//! /stop-listening                                200, and the app accepts no connection from then on
//! /ws                                            a WebSocket whose first bytes come in the packet of its 101
//! /ws-declined, /ws-silent                       a refused handshake, and one without an answer
//! ```

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The variable that makes this program act as the app.
const ROLE: &str = "TRY_IT_NOW_FAKE_UPSTREAM";

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
        "/stray" => (
            fixed(
                "HTTP/1.1 200 OK\nContent-Length: 5\n\nfirst\
                 HTTP/1.1 200 OK\nContent-Length: 5\n\nstray",
            ),
            NextStep::Keep,
        ),
        "/silent" | "/ws-silent" => (Vec::new(), NextStep::Hang),
        "/silent-midway" => (fixed("HTTP/1.1 200 OK\nContent-Length: 1000\n\nhello"), NextStep::Hang),
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
    Echo,
}
