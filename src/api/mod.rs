//! The API and the pages: one flat match from method and path to a handler, one endpoint a file.
//!
//! It knows no engine. Whoever parsed a request hands over its head and its whole body, and sends the answer.

mod api_key;
mod body;
mod endpoints;
mod error;
/// What people see of us in HTML.
pub mod pages;
mod path;
mod response;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use body::Body;
pub use error::ApiError;
pub use path::REFUSED_PATH;

use crate::cluster::{PeerClient, Provenance};
use crate::config::TrustedProxies;
use crate::instance::InstanceId;
use crate::pool::Pool;
use crate::request::{ClientAddr, RequestId};
use crate::telemetry::{HostKind, Metrics, RequestLine};
use crate::template::Secret;
use path::{Path, needs_key};

/// Most bytes of a request's body; a longer one is refused with 413.
pub const MAX_BODY: usize = 64 * 1024;

/// The handler of everything that is not an instance's.
pub struct Api {
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    key: Option<Secret>,
    trusted: TrustedProxies,
    /// Where there are other servers, who asks them.
    others: Option<PeerClient>,
    /// Ends streams of events when the server stops.
    stop: CancellationToken,
}

/// A request as an endpoint sees it.
pub(crate) struct ApiRequest<'a> {
    parts: &'a Parts,
    body: Bytes,
    client: ClientAddr,
    id: &'a RequestId,
}

impl Api {
    /// An API over a pool. Without a key everything is open. `stop` ends streams of events.
    pub fn new(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        key: Option<Secret>,
        trusted: TrustedProxies,
        stop: CancellationToken,
    ) -> Self {
        Self { pool, metrics, key, trusted, others: None, stop }
    }

    /// The same with somebody who asks other servers for what only they know.
    pub fn with_others(self, others: PeerClient) -> Self {
        Self { others: Some(others), ..self }
    }

    /// Answers one request. `body` is its whole body, or the reason why there is none; `peer` and `secure` tell of
    /// its connection. Among the extensions of `parts` is its [`Arrival`] when it did not come from outside. Counts it
    /// and writes its log line.
    pub async fn handle(
        &self,
        parts: &Parts,
        body: Result<Bytes, ApiError>,
        peer: IpAddr,
        secure: bool,
    ) -> Response<Body> {
        let start = Instant::now();
        let id = RequestId::of(&parts.headers);
        let path = Path::read(parts.uri.path());
        let client = ClientAddr::of(peer, secure, &parts.headers, &self.trusted);
        let outcome = match body {
            Ok(body) => self.route(path, ApiRequest { parts, body, client, id: &id }).await,
            Err(error) => Err(error),
        };
        let mut answer = outcome.unwrap_or_else(|error| error.answer(&id));
        answer.headers_mut().insert(RequestId::HEADER, id.value());
        if parts.method == Method::HEAD {
            strip_body(&mut answer);
        }
        self.metrics.request(RequestLine {
            id: id.as_str(),
            host: HostKind::Api,
            method: &parts.method,
            path: path.pattern(),
            status: answer.status().as_u16(),
            took: start.elapsed(),
        });
        answer
    }

    async fn route(&self, path: Path<'_>, asked: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        if needs_key(asked.parts.uri.path()) {
            self.check_key(asked.parts)?;
        }
        let method = match &asked.parts.method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        match (method, path) {
            (&Method::POST, Path::Acquire) => self.acquire(asked).await,
            (&Method::GET, Path::Demo(id)) => self.demo(&instance(id)?).await,
            (&Method::DELETE, Path::Demo(id)) => self.release(&instance(id)?).await,
            (&Method::POST, Path::Extend(id)) => self.extend(&instance(id)?, asked).await,
            (&Method::GET, Path::Status(id)) => self.status(&instance(id)?).await,
            (&Method::GET, Path::Logs(id)) => self.logs(&instance(id)?, asked).await,
            (&Method::GET, Path::Stats) => self.pool_stats(asked).await,
            (&Method::GET, Path::Nodes) => self.nodes().await,
            (&Method::POST, Path::Drain(id)) => self.drain(id, true).await,
            (&Method::DELETE, Path::Drain(id)) => self.drain(id, false).await,
            (&Method::GET, Path::Health) => self.health().await,
            (&Method::GET, Path::Metrics) => self.metrics(asked).await,
            (&Method::GET, Path::Front) => self.front(asked).await,
            (&Method::GET, Path::Ready) => self.ready().await,
            (&Method::POST, Path::Try(template)) => self.take(template, asked).await,
            (&Method::POST, Path::End(id)) => self.end(id, asked).await,
            // The address of a button, typed or opened again: nothing is spent, and a person is led to the buttons.
            (&Method::GET, Path::Try(_) | Path::End(_))
                if endpoints::page_actions::wants_page(&asked.parts.headers) =>
            {
                Ok(response::see_other("/"))
            }
            (&Method::GET, Path::Refused(status)) => Err(refusal(status)),
            (_, Path::None) => Err(ApiError::NotFound("path")),
            (_, path) => Err(ApiError::MethodNotAllowed(path.allow())),
        }
    }
}

impl ApiRequest<'_> {
    /// Whether another server may be asked for the answer: one asks for its own callers only, never for a server.
    fn may_be_passed_on(&self) -> bool {
        self.parts.extensions.get::<Provenance>().is_none_or(Provenance::may_be_passed_on)
    }
}

fn instance(id: &str) -> Result<InstanceId, ApiError> {
    InstanceId::parse(id).map_err(|_| ApiError::NotFound("instance"))
}

/// What the guard meant by the path that it put in a refused head's place.
fn refusal(status: &str) -> ApiError {
    match status {
        "400" => ApiError::MalformedHead,
        "408" => ApiError::Timeout,
        "431" => ApiError::HeadersTooLarge,
        _ => ApiError::NotFound("path"),
    }
}

/// The answer to HEAD: the same without its body.
fn strip_body(answer: &mut Response<Body>) {
    if let Body::Full(Some(bytes)) = std::mem::replace(answer.body_mut(), Body::empty()) {
        answer.headers_mut().insert(header::CONTENT_LENGTH, bytes.len().into());
    }
}

/// Reads a JSON body; `None` when it is empty. A body without a declared type counts as JSON, since existing
/// clients declare none.
fn read_json<T: serde::de::DeserializeOwned>(asked: &ApiRequest<'_>) -> Result<Option<T>, ApiError> {
    if asked.body.is_empty() {
        return Ok(None);
    }
    if let Some(kind) = asked.parts.headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::UnsupportedMediaType);
        }
    }
    serde_json::from_slice(&asked.body)
        .map(Some)
        .map_err(|error| ApiError::InvalidRequest(format!("invalid request body: {error}")))
}
