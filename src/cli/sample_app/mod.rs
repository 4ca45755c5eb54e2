//! The app that the binary brings along: a guest book, one for each instance.
//!
//! It is what a newcomer's first click opens, and what tests send their traffic to: beside the page it has a live
//! socket, server-sent events, streams of any length in both directions, and a view of a request as it arrived.
//! It trusts its proxy and has no log-in.
//!
//! ```text
//! router ── page, html        GET /            the page, readable and usable without JavaScript
//!        ├─ form, guest_book  POST /entries    validate, save (keeper), 303
//!        ├─ live              GET /live        WebSocket; GET /events: a tick a second
//!        ├─ streams           POST /upload, GET /download
//!        └─ inspect           GET /whoami, GET /cookie
//! ```

mod form;
mod guest_book;
mod inspect;
mod keeper;
mod live;
mod page;
mod reply;
mod router;
mod settings;
mod streams;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::telemetry::task;
use keeper::EntryStore;
pub use settings::{Settings, SettingsError};

/// Time for a request's head, which for hyper includes the idle time before it. Longer than any proxy keeps an idle
/// connection, so that it is never this side that closes one just as a request is sent on it.
const HEAD_DEADLINE: Duration = Duration::from_secs(150);
/// What a connection may buffer, in bytes; dozens of these apps run at once.
const CONNECTION_BUFFER: usize = 64 * 1024;
/// Pause after a failed accept (out of file descriptors, mostly), which would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the app cannot start. It says what to do about it, for a log that a template's author reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port as given.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The saved guest book cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The guest book's file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The saved guest book is none.
    #[error("{} is not a guest book ({why}); move it away to start with an empty one", file.display())]
    Damaged {
        /// The guest book's file, left as it is.
        file: PathBuf,
        /// The first thing wrong with it.
        why: String,
    },
}

/// What all connections of one app share.
#[derive(Debug)]
struct App {
    settings: Settings,
    clock: Clock,
    keeper: Arc<EntryStore>,
    /// How many live sockets are open.
    visitors: watch::Sender<u64>,
}

impl App {
    fn open(settings: Settings) -> Result<Arc<App>, Error> {
        let keeper = Arc::new(EntryStore::open(&settings.data_file)?);
        Ok(Arc::new(App { settings, clock: Clock::System, keeper, visitors: watch::Sender::new(0) }))
    }
}

/// Listens where `settings` says and serves until the process ends. Works on a current-thread runtime.
///
/// # Errors
/// When the port cannot be bound or the saved guest book cannot be read; once listening it never returns.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let app = App::open(settings)?;
    let (host, port) = (app.settings.host.as_str(), app.settings.port);
    let listener = TcpListener::bind((host, port))
        .await
        .map_err(|source| Error::Listen { address: format!("{host}:{port}"), source })?;
    tracing::info!(host, port, instance = app.settings.id, "the sample app is listening");
    accept(app, listener).await
}

/// As [`run`], on a socket that already listens; the host and port in `settings` are not used.
///
/// # Errors
/// When the saved guest book cannot be read.
pub async fn serve(listener: TcpListener, settings: Settings) -> Result<(), Error> {
    accept(App::open(settings)?, listener).await
}

async fn accept(app: Arc<App>, listener: TcpListener) -> Result<(), Error> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                task::spawn("sample-app connection", connection(Arc::clone(&app), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(app: Arc<App>, stream: TcpStream) {
    // Small live messages must not wait for each other's acknowledgement; without it they only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(router::answer(app, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(CONNECTION_BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        // A client that went away; the app goes on.
        tracing::debug!(%error, "a connection ended early");
    }
}
