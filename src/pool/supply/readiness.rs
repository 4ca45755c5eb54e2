//! Requests to the app of one instance: its ready check, and its warm-up.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tokio::time::Instant;

use crate::instance::Endpoint;
use crate::request::one_shot::{ExchangeError, exchange};
use crate::runtime::Runtime;
use crate::telemetry::{Metrics, Outcome};
use crate::template::ReadyCheck;

/// Longest time of one request of the ready check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause between two requests of the ready check. It doubles up to the check's interval, since most apps need
/// either a few milliseconds or many.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const USER_AGENT: &str = concat!("try-it-now/", env!("CARGO_PKG_VERSION"));

/// An app that did not answer as its template declares.
#[derive(Debug, thiserror::Error)]
pub(in crate::pool) enum ReadinessError {
    #[error("the app was not ready within {after:?}: {last}")]
    Timeout { after: Duration, last: String },
    #[error("warm-up request {path}: {what}")]
    WarmUp { path: String, what: String },
}

/// The app of one instance: how to reach it, and its host name.
#[derive(Clone, Copy)]
pub(super) struct AppTarget<'a> {
    /// The runtime that runs it.
    pub(super) runtime: &'a dyn Runtime,
    /// Where it listens.
    pub(super) endpoint: Endpoint,
    /// The authority in the requests of its visitors: host and, unless it is the default, port.
    pub(super) host: &'a str,
}

/// Repeats the ready check until it succeeds.
///
/// # Errors
/// `Timeout` after the check's timeout, with the last failure.
pub(super) async fn wait_until_ready(
    target: AppTarget<'_>,
    check: &ReadyCheck,
    metrics: &Metrics,
) -> Result<(), ReadinessError> {
    let deadline = Instant::now() + check.timeout;
    let mut pause = FIRST_PAUSE.min(check.interval);
    let mut last_failure: Option<String> = None;
    loop {
        let start = Instant::now();
        let time_left = deadline - start;
        let response = tokio::time::timeout(CHECK_TIMEOUT.min(time_left), get(target, &check.path)).await;
        let result = match response {
            // The check's own end cut this attempt off, which says nothing of the app.
            Err(_) if time_left < CHECK_TIMEOUT && last_failure.is_some() => {
                Err(last_failure.take().unwrap_or_default())
            }
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(response)) => check_response(check, &response),
        };
        let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
        metrics.record_ready_check(outcome, start.elapsed());
        match result {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() + pause >= deadline => {
                return Err(ReadinessError::Timeout { after: check.timeout, last });
            }
            Err(last) => {
                last_failure = Some(last);
                tokio::time::sleep(pause).await;
            }
        }
        pause = (pause * 2).min(check.interval);
    }
}

/// Sends one warm-up request and reads the whole response, of whatever status.
///
/// # Errors
/// `WarmUp` when there is no response within `timeout`.
pub(super) async fn send_warm_up(
    target: AppTarget<'_>,
    path: &str,
    timeout: Duration,
) -> Result<(), ReadinessError> {
    let what = match tokio::time::timeout(timeout, get(target, path)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {timeout:?}"),
    };
    Err(ReadinessError::WarmUp { path: path.to_owned(), what })
}

fn check_response(check: &ReadyCheck, response: &Response<Bytes>) -> Result<(), String> {
    let (status, body) = (response.status().as_u16(), response.body());
    if status != check.status {
        return Err(format!("GET {} answered {status}, not {}", check.path, check.status));
    }
    match &check.body {
        Some(text) if memchr::memmem::find(body, text.as_bytes()).is_none() => {
            Err(format!("the answer to GET {} does not contain `{text}`", check.path))
        }
        _ => Ok(()),
    }
}

/// Sends one GET request and reads the whole response. The caller bounds the wait.
///
/// # Errors
/// The app cannot be reached, or its response is malformed.
pub(super) async fn get(target: AppTarget<'_>, path: &str) -> Result<Response<Bytes>, ExchangeError> {
    send(target, Request::get(path).body(Full::default())?).await
}

/// Sends one request with the authority that visitors use, and reads the whole response. The caller bounds the wait.
///
/// # Errors
/// The app cannot be reached, or its response is malformed.
pub(super) async fn send(
    target: AppTarget<'_>,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ExchangeError> {
    let stream = target.runtime.connect(target.endpoint).await?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(target.host)?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    exchange(stream, request).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::pool::tests::test_runtime::TestRuntime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn check() -> ReadyCheck {
        ReadyCheck {
            path: "/up".into(),
            status: 200,
            body: Some("yes".into()),
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(5),
        }
    }

    /// Starts an app that answers one connection after another with the given texts, and all further ones with the
    /// last.
    async fn start_app(answers: &'static [&'static str]) -> TestApp {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        crate::telemetry::task::spawn("test app", async move {
            for n in 0.. {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = socket.read(&mut head).await;
                let text = answers[n.min(answers.len() - 1)];
                let _ = socket.write_all(text.as_bytes()).await;
            }
        });
        TestApp { runtime: TestRuntime::default(), address }
    }

    struct TestApp {
        runtime: TestRuntime,
        address: SocketAddr,
    }

    impl TestApp {
        fn target(&self) -> AppTarget<'_> {
            AppTarget { runtime: &self.runtime, endpoint: self.address.into(), host: "a.test" }
        }
    }

    #[tokio::test]
    async fn the_ready_check_is_repeated_until_status_and_text_are_right() {
        let app = start_app(&[
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /up2\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        ])
        .await;
        wait_until_ready(app.target(), &check(), &Metrics::new()).await.unwrap();
    }

    #[tokio::test]
    async fn the_error_names_the_last_response() {
        let app = start_app(&["HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"]).await;
        let check = ReadyCheck { timeout: Duration::from_secs(1), ..check() };
        let error = wait_until_ready(app.target(), &check, &Metrics::new()).await.unwrap_err();
        assert!(error.to_string().ends_with("GET /up answered 500, not 200"), "{error}");
    }

    #[tokio::test]
    async fn a_warm_up_request_accepts_any_response_but_needs_one() {
        let app = start_app(&["HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", ""]).await;
        send_warm_up(app.target(), "/", Duration::from_secs(5)).await.unwrap();
        send_warm_up(app.target(), "/", Duration::from_secs(5)).await.unwrap_err();
    }
}
