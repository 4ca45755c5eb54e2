//! Whether an app answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use tokio::time::Instant;

use crate::instance::Endpoint;
use crate::request::one_shot::{Failure, exchange};
use crate::runtime::Runtime;
use crate::telemetry::{Metrics, Outcome};
use crate::template::ReadyCheck;

/// Longest time of one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// First pause between two attempts; it doubles up to the check's interval, since most apps need either a few
/// milliseconds or many.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const USER_AGENT: &str = concat!("try-it-now/", env!("CARGO_PKG_VERSION"));

/// An app did not answer as its template says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("the app did not get ready within {after:?}: {last}")]
    Timeout { after: Duration, last: String },
    #[error("warm-up request {path}: {what}")]
    WarmUp { path: String, what: String },
}

/// The app of one instance: how to reach it, and what it is called.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// What runs it.
    pub(crate) runtime: &'a dyn Runtime,
    /// Where it listens.
    pub(crate) endpoint: Endpoint,
    /// The authority by which visitors call it.
    pub(crate) host: &'a str,
}

/// Asks until the answer is right.
pub(crate) async fn wait(target: Target<'_>, check: &ReadyCheck, metrics: &Metrics) -> Result<(), NotReady> {
    let deadline = Instant::now() + check.timeout;
    let mut pause = FIRST_PAUSE.min(check.interval);
    loop {
        let start = Instant::now();
        let answer = tokio::time::timeout(ATTEMPT.min(deadline - start), get(target, &check.path)).await;
        let verdict = match answer {
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok((status, body))) => judge(check, status, &body),
        };
        let outcome = if verdict.is_ok() { Outcome::Success } else { Outcome::Error };
        metrics.health_checked(outcome, start.elapsed());
        match verdict {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() + pause >= deadline => {
                return Err(NotReady::Timeout { after: check.timeout, last });
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(check.interval);
    }
}

/// Asks once and reads the whole answer, whatever it is; an error only when there is none.
pub(crate) async fn visit(target: Target<'_>, path: &str, timeout: Duration) -> Result<(), NotReady> {
    let what = match tokio::time::timeout(timeout, get(target, path)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {timeout:?}"),
    };
    Err(NotReady::WarmUp { path: path.to_owned(), what })
}

fn judge(check: &ReadyCheck, status: StatusCode, body: &[u8]) -> Result<(), String> {
    if status.as_u16() != check.status {
        return Err(format!("GET {} answered {}, not {}", check.path, status.as_u16(), check.status));
    }
    match &check.body {
        Some(text) if memchr::memmem::find(body, text.as_bytes()).is_none() => {
            Err(format!("the answer to GET {} does not contain `{text}`", check.path))
        }
        _ => Ok(()),
    }
}

async fn get(target: Target<'_>, path: &str) -> Result<(StatusCode, Bytes), Failure> {
    ask(target, Request::get(path).body(Full::default())?).await
}

/// Makes one request, by the name that visitors call the app, and reads the whole answer.
pub(crate) async fn ask(
    target: Target<'_>,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Failure> {
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

    /// Answers one connection after another with the given texts, the last one for ever.
    async fn app(answers: &'static [&'static str]) -> App {
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
        App { runtime: TestRuntime::default(), address }
    }

    struct App {
        runtime: TestRuntime,
        address: SocketAddr,
    }

    impl App {
        fn target(&self) -> Target<'_> {
            Target { runtime: &self.runtime, endpoint: self.address.into(), host: "a.test" }
        }
    }

    #[tokio::test]
    async fn it_asks_again_until_status_and_text_are_right() {
        let app = app(&[
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /up2\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        ])
        .await;
        wait(app.target(), &check(), &Metrics::new()).await.unwrap();
    }

    #[tokio::test]
    async fn it_says_what_the_last_answer_was() {
        let app = app(&["HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"]).await;
        let check = ReadyCheck { timeout: Duration::from_millis(100), ..check() };
        let error = wait(app.target(), &check, &Metrics::new()).await.unwrap_err();
        assert!(error.to_string().ends_with("GET /up answered 500, not 200"), "{error}");
    }

    #[tokio::test]
    async fn a_warm_up_request_takes_any_answer_but_no_silence() {
        let app = app(&["HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", ""]).await;
        visit(app.target(), "/", Duration::from_secs(5)).await.unwrap();
        visit(app.target(), "/", Duration::from_secs(5)).await.unwrap_err();
    }
}
