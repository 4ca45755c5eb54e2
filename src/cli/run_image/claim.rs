//! Claims an instance of the demo by the server's own API, as a visitor does.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::request::one_shot::exchange;

/// Pause between two attempts.
const INTERVAL: Duration = Duration::from_millis(200);
/// Longest time of one request. An acquire may wait for an instance.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Acquired {
    url: String,
}

#[derive(Deserialize)]
struct Stats {
    templates: Vec<TemplateStats>,
}

#[derive(Deserialize)]
struct TemplateStats {
    problem: Option<String>,
}

/// Acquires an instance of the only template as soon as one is ready. Returns its URL.
///
/// # Errors
/// There is none after `longest`; the text says why.
pub(super) async fn claim(server: SocketAddr, longest: Duration) -> Result<String, String> {
    let deadline = Instant::now() + longest;
    loop {
        let acquired = ask::<Acquired>(server, Method::POST, "/api/v1/demo/acquire").await;
        let problem = match acquired {
            Ok(acquired) => return Ok(acquired.url),
            Err(problem) => problem,
        };
        if Instant::now() >= deadline {
            let stats = ask::<Stats>(server, Method::GET, "/api/v1/pool/stats").await.ok();
            let known = stats.and_then(|stats| stats.templates.into_iter().find_map(|one| one.problem));
            return Err(known.unwrap_or(problem));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Sends a request to the API and reads the answer.
async fn ask<T: DeserializeOwned>(server: SocketAddr, method: Method, path: &str) -> Result<T, String> {
    let asking = async {
        let stream = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::HOST, server.to_string()).body(Full::<Bytes>::default());
        let request = request.map_err(|error| error.to_string())?;
        let answer = exchange(stream, request).await.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => serde_json::from_slice(answer.body()).map_err(|error| error.to_string()),
            _ => Err(String::from_utf8_lossy(answer.body()).into_owned()),
        }
    };
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, asking).await;
    answered.unwrap_or_else(|_| Err(format!("no answer to {path} within {REQUEST_TIMEOUT:?}")))
}
