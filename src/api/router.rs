//! The handler of the API: the flat match from method and path to an endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cross_site::TrustedOrigins;
use super::path::{Path, needs_api_key};
use super::request::{ApiRequest, accepts_html};
use super::{ApiError, Body, pages, response};
use crate::cluster::PeerClient;
use crate::config::TrustedProxies;
use crate::instance::InstanceId;
use crate::pool::Pool;
use crate::request::{ClientAddr, RequestId};
use crate::telemetry::{HostKind, Metrics, RequestRecord};
use crate::template::Secret;

/// Handles every request whose host is not an instance's.
pub struct Api {
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) api_key: Option<Secret>,
    trusted_proxies: TrustedProxies,
    trusted_origins: TrustedOrigins,
    /// Requests data from other nodes; `None` where this node is alone.
    pub(super) peers: Option<PeerClient>,
    /// Ends event streams when the server shuts down.
    pub(super) shutdown: CancellationToken,
}

impl Api {
    /// Creates the API of a pool. Without `api_key`, every endpoint is open. `shutdown` ends event streams.
    pub fn new(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        api_key: Option<Secret>,
        trusted_proxies: TrustedProxies,
        trusted_origins: TrustedOrigins,
        shutdown: CancellationToken,
    ) -> Self {
        Self { pool, metrics, api_key, trusted_proxies, trusted_origins, peers: None, shutdown }
    }

    /// Sets the client that requests from other nodes what only they know, such as the output of their instances.
    pub fn with_peer_client(self, peers: PeerClient) -> Self {
        Self { peers: Some(peers), ..self }
    }

    /// Answers one request, counts it in the metrics and writes its log line.
    ///
    /// `body` is the whole body, or the reason why it could not be read. `peer` is the address at the other end of the
    /// connection, and `secure` whether that is encrypted. If the request has a hop header, the caller has removed it
    /// and put its [`Provenance`](crate::cluster::Provenance) into the extensions of `head`.
    pub async fn handle(
        &self,
        head: &Parts,
        body: Result<Bytes, ApiError>,
        peer: IpAddr,
        secure: bool,
    ) -> Response<Body> {
        let start = Instant::now();
        let request_id = RequestId::of(&head.headers);
        let path = Path::parse(head.uri.path());
        let client = ClientAddr::of(peer, secure, &head.headers, &self.trusted_proxies);
        let result = match body {
            Ok(body) => self.route(path, ApiRequest { head, body, client, id: &request_id }).await,
            Err(error) => Err(error),
        };
        let mut response = result.unwrap_or_else(|error| error.to_response(&request_id));
        response.headers_mut().insert(RequestId::HEADER, request_id.to_header_value());
        if let Some(origin) = self.trusted_origins.button_origin(&head.headers) {
            // The script of a site with a button may read the response.
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if head.method == Method::HEAD {
            remove_body(&mut response);
        }
        self.metrics.record_request(RequestRecord {
            id: request_id.as_str(),
            host: HostKind::Api,
            method: &head.method,
            path: path.pattern(),
            status: response.status().as_u16(),
            took: start.elapsed(),
        });
        response
    }

    async fn route(&self, path: Path<'_>, request: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        if needs_api_key(request.head.uri.path()) {
            self.check_api_key(request.head)?;
        }
        if self.trusted_origins.is_cross_site(request.head) {
            return refuse_cross_site(&request);
        }
        let method = match &request.head.method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        match (method, path) {
            (&Method::POST, Path::Acquire) => self.acquire(request).await,
            (&Method::GET, Path::Instance(id)) => self.get_instance(&parse_id(id)?).await,
            (&Method::DELETE, Path::Instance(id)) => self.release(&parse_id(id)?).await,
            (&Method::POST, Path::Extend(id)) => self.extend(&parse_id(id)?, request).await,
            (&Method::GET, Path::Status(id)) => self.status(&parse_id(id)?).await,
            (&Method::GET, Path::Logs(id)) => self.logs(&parse_id(id)?, request).await,
            (&Method::GET, Path::PoolStats) => self.pool_stats(request).await,
            (&Method::GET, Path::Client) => self.client(request).await,
            (&Method::GET, Path::Nodes) => self.nodes().await,
            (&Method::POST, Path::Drain(id)) => self.drain(id, true).await,
            (&Method::DELETE, Path::Drain(id)) => self.drain(id, false).await,
            (&Method::GET, Path::Health) => self.health().await,
            (&Method::GET, Path::Metrics) => self.metrics(request).await,
            (&Method::GET, Path::FrontPage) => self.front_page(request).await,
            (&Method::GET, Path::ReadyFeed) => self.ready_feed().await,
            (&Method::POST, Path::Try(template)) => self.try_template(template, request).await,
            (&Method::POST, Path::End(id)) => self.end_instance(id, request).await,
            // The address of a button, typed or reloaded: it must acquire nothing, and leads to the page with the
            // button.
            (&Method::GET, Path::Try(_) | Path::End(_)) if accepts_html(&request.head.headers) => {
                Ok(response::see_other("/"))
            }
            (&Method::GET, Path::Refused(status)) => Err(refused_head(status)),
            (_, Path::Unknown) => Err(ApiError::NotFound("path")),
            (_, path) => Err(ApiError::MethodNotAllowed(path.allow())),
        }
    }
}

/// Refuses the request of another site, with a page if the client is a browser that shows one.
fn refuse_cross_site(request: &ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
    if accepts_html(&request.head.headers) {
        return Ok(response::html(StatusCode::FORBIDDEN, pages::cross_site(request.id.as_str())));
    }
    Err(ApiError::CrossSite)
}

fn parse_id(id: &str) -> Result<InstanceId, ApiError> {
    InstanceId::parse(id).map_err(|_| ApiError::NotFound("instance"))
}

/// Returns the error for a head that the HTTP/1 guard refused with this status, see
/// [`REFUSED_PATH`](super::REFUSED_PATH).
fn refused_head(status: &str) -> ApiError {
    match status {
        "400" => ApiError::MalformedHead,
        "408" => ApiError::Timeout,
        "431" => ApiError::HeadersTooLarge,
        _ => ApiError::NotFound("path"),
    }
}

/// Turns the response to GET into the response to HEAD: the same headers, with the body's length, and no body.
fn remove_body(response: &mut Response<Body>) {
    if let Body::Full(Some(bytes)) = std::mem::replace(response.body_mut(), Body::empty()) {
        response.headers_mut().insert(header::CONTENT_LENGTH, bytes.len().into());
    }
}
