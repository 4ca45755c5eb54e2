//! The roles of this program when it runs as its own child: the peers of the baseline measurements.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;

use crate::bulk;
use crate::failure::Failure;

/// Bytes of a ping and of its echo.
pub(crate) const PING_BYTES: usize = 100;

/// The path of a response with a body of so many bytes, which follow.
pub(crate) const BYTES_PATH: &str = "/bytes/";
/// Most bytes of such a body.
const MAX_BYTES: usize = 10 << 20;

/// A body as long as that of the response to an acquire.
const FIXED_BODY: &[u8] = br#"{"id":"default-aaaaaaaaaaaaaaaa","url":"http://default-aaaaaaaaaaaaaaaa.localhost:8080/","admin_url":"http://default-aaaaaaaaaaaaaaaa.localhost:8080/","expires_at":"2030-01-01T00:00:00.000Z","ttl_seconds":3600}"#;

/// A role of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Echoes each ping: the peer of `rtt`.
    Echo,
    /// Sends the same response to every request but those for [`BYTES_PATH`]: the peer of `plain`, and the fixed upstream of `direct`.
    Plain,
    /// Sends and takes bodies of any size: see [`bulk`].
    Bulk,
    /// Executes another program, which the system kills when the parent ends.
    Exec,
}

impl Role {
    /// Returns its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Plain => "plain",
            Self::Bulk => "bulk",
            Self::Exec => "exec",
        }
    }
}

/// Listens, prints the port, and serves until standard input ends, which is when the parent closes it or ends. An
/// instance of a server, which has `PORT`, listens there and serves until it is killed. In the role `Exec`, executes
/// `program` instead.
pub(crate) fn run(role: Role, program: &[OsString]) -> Result<(), Failure> {
    if let (Role::Exec, [program, arguments @ ..]) = (role, program) {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // Replaces this program. Returns only with an error.
        return Err(Command::new(program).args(arguments).exec().into());
    }
    let port = match std::env::var("PORT") {
        Ok(port) if role == Role::Bulk => Some(port.parse()?),
        _ => None,
    };
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(0))))?;
    if port.is_some() {
        return bulk::serve(&listener);
    }
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    std::thread::spawn(move || match role {
        Role::Echo => echo(&listener),
        Role::Plain => plain(listener),
        Role::Bulk => bulk::serve(&listener),
        Role::Exec => Ok(()),
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn echo(listener: &TcpListener) -> Result<(), Failure> {
    loop {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut ping = [0; PING_BYTES];
        while socket.read_exact(&mut ping).is_ok() && socket.write_all(&ping).is_ok() {}
    }
}

/// Serves with the same HTTP engine, async runtime and allocator as the server.
fn plain(listener: TcpListener) -> Result<(), Failure> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let large_body = Bytes::from(vec![b'x'; MAX_BYTES]);
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let large_body = large_body.clone();
            runtime.spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let bytes =
                        request.uri().path().strip_prefix(BYTES_PATH).and_then(|text| text.parse().ok());
                    let body = match bytes {
                        Some(bytes) => large_body.slice(..MAX_BYTES.min(bytes)),
                        None => Bytes::from_static(FIXED_BODY),
                    };
                    async move { Ok::<_, Infallible>(fixed_response(body)) }
                });
                // A load closes its connections when it ends.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    })
}

fn fixed_response(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-request-id", HeaderValue::from_static("00000000-0000-7000-8000-000000000000"));
    *response.headers_mut() = headers;
    response
}
