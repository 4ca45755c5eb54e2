//! Requests to the app of one instance: its ready check, and its warm-up.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Scheme;
use crate::instance::Endpoint;
use crate::request::FORWARDED_PROTO;
use crate::request::one_shot::{ExchangeError, exchange};
use crate::runtime::Runtime;
use crate::telemetry::{Metrics, Outcome};
use crate::template::{ReadyCheck, Template};

/// Longest time of one request of the ready check.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest pause between two requests of the ready check.
const MIN_PAUSE: Duration = Duration::from_millis(2);
/// The part of the time waited so far by which the check may notice an app late: the pause grows with that time, up to the
/// check's interval.
const LATENESS: u32 = 8;
const USER_AGENT: &str = concat!("try-it-now/", env!("CARGO_PKG_VERSION"));

/// An app that did not answer as its template declares.
#[derive(Debug, thiserror::Error)]
pub(in crate::pool) enum ReadinessError {
    #[error("the app was not ready within {after:?}: {last}{}", listening.as_ref().map(|text| format!("; {text}")).unwrap_or_default())]
    Timeout {
        after: Duration,
        /// The last failure.
        last: String,
        /// Where the app listens, if not where it should.
        listening: Option<String>,
    },
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
    /// The scheme of the URL that its visitors see.
    pub(super) scheme: Scheme,
}

/// Repeats the ready check until it succeeds, and returns the endpoint that answered: that of the target, or if the app
/// refuses connections there, the same port of `::1`.
///
/// # Errors
/// `Timeout` after the check's timeout, with the last failure.
pub(super) async fn wait_until_ready(
    target: AppTarget<'_>,
    check: &ReadyCheck,
    metrics: &Metrics,
) -> Result<Endpoint, ReadinessError> {
    repeat_until_accepted(target, check, metrics, |response| check_response(check, response)).await
}

/// Repeats the request of the ready check until there is any answer, and returns the endpoint that answered.
///
/// # Errors
/// `Timeout` after the check's timeout, with the last failure.
pub(super) async fn wait_until_answering(
    target: AppTarget<'_>,
    check: &ReadyCheck,
    metrics: &Metrics,
) -> Result<Endpoint, ReadinessError> {
    repeat_until_accepted(target, check, metrics, |_| Ok(())).await
}

async fn repeat_until_accepted(
    target: AppTarget<'_>,
    check: &ReadyCheck,
    metrics: &Metrics,
    judge: impl Fn(&Response<Bytes>) -> Result<(), String>,
) -> Result<Endpoint, ReadinessError> {
    let begun = Instant::now();
    let deadline = begun + check.timeout;
    let mut last_failure: Option<String> = None;
    loop {
        let start = Instant::now();
        let time_left = deadline - start;
        let checking = get_from_either(target, &check.path);
        let response = tokio::time::timeout(CHECK_TIMEOUT.min(time_left), checking).await;
        let result = match response {
            // The check's own end cut this attempt off, which says nothing of the app.
            Err(_) if time_left < CHECK_TIMEOUT && last_failure.is_some() => {
                Err(last_failure.take().unwrap_or_default())
            }
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok((response, answered))) => judge(&response).map(|()| answered),
        };
        let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
        metrics.record_ready_check(outcome, start.elapsed());
        let pause = pause_after(begun.elapsed(), check.interval);
        match result {
            Ok(answered) => return Ok(answered),
            Err(last) if Instant::now() + pause >= deadline => {
                return Err(ReadinessError::Timeout { after: check.timeout, last, listening: None });
            }
            Err(last) => {
                last_failure = Some(last);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Returns the pause before the next request of a ready check that has waited for so long.
fn pause_after(waited: Duration, interval: Duration) -> Duration {
    (waited / LATENESS).max(MIN_PAUSE).min(interval)
}

/// A request of the ready check that failed.
#[derive(Debug)]
pub(super) struct CheckFailure {
    /// What happened.
    pub(super) what: String,
    /// Whether the app refused the connection.
    pub(super) is_refused: bool,
}

/// Sends the request of a template's ready check once, and waits for the answer for at most `timeout`. Where the image's
/// health check takes its place, any answer will do: nothing is known of the right one.
///
/// # Errors
/// There is no answer in time, or another one than the template expects.
pub(super) async fn check_once(
    target: AppTarget<'_>,
    template: &Template,
    timeout: Duration,
) -> Result<(), CheckFailure> {
    let check = &template.ready;
    let is_any_right = check.yields_to_image && target.runtime.health_check(&template.app).is_some();
    if !target.runtime.runs_apps() {
        return Ok(());
    }
    let (what, is_refused) = match tokio::time::timeout(timeout, get(target, &check.path)).await {
        Err(_) => (format!("no answer to GET {} within {timeout:?}", check.path), false),
        Ok(Err(error)) => {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            (error.to_string(), kind == Some(io::ErrorKind::ConnectionRefused))
        }
        Ok(Ok(_)) if is_any_right => return Ok(()),
        Ok(Ok(response)) => match check_response(check, &response) {
            Ok(()) => return Ok(()),
            Err(what) => (what, false),
        },
    };
    Err(CheckFailure { what, is_refused })
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

/// Sends one GET request to the endpoint of the target, or to the same port of `::1` if no app listens there. Returns the
/// response with the endpoint that it came from. The caller bounds the wait.
///
/// # Errors
/// The app cannot be reached, or its response is malformed.
async fn get_from_either(
    target: AppTarget<'_>,
    path: &str,
) -> Result<(Response<Bytes>, Endpoint), ExchangeError> {
    let (stream, endpoint) = connect(target).await?;
    let request = Request::get(path).body(Full::default())?;
    Ok((send_on(stream, target, request).await?, endpoint))
}

/// Connects to the endpoint of the target, or to the same port of `::1` if no app listens there.
///
/// # Errors
/// The error of the first endpoint, if the second does not exist or refuses too.
pub(super) async fn connect(target: AppTarget<'_>) -> io::Result<(TcpStream, Endpoint)> {
    let (runtime, endpoint) = (target.runtime, target.endpoint);
    let refused = match runtime.connect(endpoint).await {
        Ok(stream) => return Ok((stream, endpoint)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => error,
        Err(error) => return Err(error),
    };
    let Some(other) = endpoint.on_ipv6_loopback() else { return Err(refused) };
    runtime.connect(other).await.map(|stream| (stream, other)).map_err(|_| refused)
}

/// Sends one GET request and reads the whole response. The caller bounds the wait.
///
/// # Errors
/// The app cannot be reached, or its response is malformed.
pub(super) async fn get(target: AppTarget<'_>, path: &str) -> Result<Response<Bytes>, ExchangeError> {
    send(target, Request::get(path).body(Full::default())?).await
}

/// Sends one request with the authority and the scheme that visitors use, and reads the whole response. The caller bounds
/// the wait.
///
/// # Errors
/// The app cannot be reached, or its response is malformed.
pub(super) async fn send(
    target: AppTarget<'_>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ExchangeError> {
    send_on(target.runtime.connect(target.endpoint).await?, target, request).await
}

async fn send_on(
    stream: TcpStream,
    target: AppTarget<'_>,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ExchangeError> {
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(target.host)?);
    // An app may send a request without TLS elsewhere, where its visitors come with it.
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(target.scheme.as_str()));
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
            yields_to_image: false,
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
            let (host, scheme) = ("a.test", Scheme::Https);
            AppTarget { runtime: &self.runtime, endpoint: self.address.into(), host, scheme }
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
        let answered = wait_until_ready(app.target(), &check(), &Metrics::new()).await.unwrap();
        assert_eq!(answered, app.address.into());
    }

    #[test]
    fn the_pause_grows_with_the_time_waited_up_to_the_interval() {
        let [pause_of_new, of_slow, of_slowest] = [0, 80, 60_000]
            .map(|waited| pause_after(Duration::from_millis(waited), Duration::from_millis(50)));
        assert_eq!([pause_of_new, of_slow, of_slowest].map(|pause| pause.as_millis()), [2, 10, 50]);
        // An interval below the shortest pause is kept.
        let interval = Duration::from_millis(1);
        assert_eq!(pause_after(Duration::ZERO, interval), interval);
    }

    #[tokio::test]
    async fn a_request_has_the_host_and_the_scheme_of_visitors() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TestApp { runtime: TestRuntime::default(), address: listener.local_addr().unwrap() };
        let answer = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let length = socket.read(&mut head).await.unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            String::from_utf8(head[..length].to_vec()).unwrap().to_lowercase()
        };
        let (response, head) = tokio::join!(get(app.target(), "/"), answer);
        assert_eq!(response.unwrap().status(), 200);
        assert!(head.contains("\r\nhost: a.test\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-proto: https\r\n"), "{head}");
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
