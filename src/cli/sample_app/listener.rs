//! Accepts the connections of the sample app.

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::super::command::{CONFIG_ERROR, fail, run_async};
use super::app::SampleApp;
use super::error::SampleAppError;
use super::router;
use super::settings::Settings;
use crate::telemetry::task;

/// The time for a request's head, in which hyper includes the idle time before it. It is longer than any proxy keeps an
/// idle connection, so that this side never closes a connection just as a request is sent on it.
const HEAD_DEADLINE: Duration = Duration::from_secs(150);
/// The bytes that a connection may buffer. Dozens of these apps run at the same time.
const CONNECTION_BUFFER: usize = 64 * 1024;
/// The pause after a failed accept, which would otherwise fail again at once. The usual reason is a lack of
/// descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Runs the sample app with the settings of the environment. Returns the exit status.
pub(crate) fn run_command() -> ExitCode {
    match Settings::from_env() {
        Ok(settings) => run_async(tokio::runtime::Builder::new_current_thread(), run(settings)),
        Err(error) => fail(CONFIG_ERROR, error),
    }
}

/// Listens at the address in `settings` and serves until the process ends. Works on a current-thread runtime.
///
/// # Errors
/// The port cannot be bound, or the saved guest book cannot be read. Once it listens it never returns.
pub(super) async fn run(settings: Settings) -> Result<(), SampleAppError> {
    let app = SampleApp::open(settings)?;
    let (host, port) = (app.settings.host.as_str(), app.settings.port);
    let listener = TcpListener::bind((host, port))
        .await
        .map_err(|source| SampleAppError::Listen { address: format!("{host}:{port}"), source })?;
    tracing::info!(host, port, instance = app.settings.id, "sample app started");
    accept(app, listener).await
}

/// Serves on a socket that already listens; the host and port in `settings` are not used.
///
/// # Errors
/// The saved guest book cannot be read.
#[cfg(test)]
pub(crate) async fn serve(listener: TcpListener, settings: Settings) -> Result<(), SampleAppError> {
    accept(SampleApp::open(settings)?, listener).await
}

async fn accept(app: Arc<SampleApp>, listener: TcpListener) -> Result<(), SampleAppError> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                task::spawn("sample-app connection", connection(Arc::clone(&app), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(app: Arc<SampleApp>, stream: TcpStream) {
    // Small live messages must not wait for the acknowledgement of earlier ones. A failure only delays them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(router::respond(app, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(CONNECTION_BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        // A client disconnected; the app serves the others.
        tracing::debug!(%error, "connection ended early");
    }
}
