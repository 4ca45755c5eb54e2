//! The handler of the API: the flat match from method and path to an endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access::ApiKey;
use super::cross_site::TrustedOrigins;
use super::path::Path;
use super::proof_of_work::ProofsOfWork;
use super::ready_counts::ReadyTicker;
use super::request::{ApiRequest, accepts_html};
use super::{ApiError, Body, pages, response};
use crate::cluster::PeerClient;
use crate::config::TrustedProxies;
use crate::instance::InstanceId;
use crate::pool::Pool;
use crate::request::{ClientAddr, ClientPermits, RequestId};
use crate::telemetry::{HostKind, Metrics, RequestRecord};

/// Handles every request whose host is not an instance's.
pub struct Api {
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) api_key: ApiKey,
    trusted_proxies: TrustedProxies,
    trusted_origins: TrustedOrigins,
    /// See [`Api::with_proof_of_work`].
    pub(super) proof_of_work_above: Option<u32>,
    pub(super) proofs_of_work: ProofsOfWork,
    /// See [`Api::with_client_permits`].
    pub(super) client_permits: ClientPermits,
    /// Requests data from other nodes; `None` where this node is alone.
    pub(super) peers: Option<PeerClient>,
    /// The numbers of ready instances, for the event stream and the front page.
    pub(super) ready_ticker: Arc<ReadyTicker>,
    /// Ends event streams when the server shuts down.
    pub(super) shutdown: CancellationToken,
}

impl Api {
    /// Creates the API of a pool. `shutdown` ends event streams.
    pub fn new(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        api_key: ApiKey,
        trusted_proxies: TrustedProxies,
        trusted_origins: TrustedOrigins,
        shutdown: CancellationToken,
    ) -> Self {
        // Without limits until they are set.
        let client_permits = ClientPermits::new(usize::MAX, trusted_proxies.clone());
        Self {
            client_permits,
            ready_ticker: ReadyTicker::new(pool.clone(), shutdown.clone()),
            pool,
            metrics,
            api_key,
            trusted_proxies,
            trusted_origins,
            proof_of_work_above: None,
            proofs_of_work: ProofsOfWork::default(),
            peers: None,
            shutdown,
        }
    }

    /// Sets the client that requests from other nodes what only they know, such as the output of their instances.
    pub fn with_peer_client(self, peers: PeerClient) -> Self {
        Self { peers: Some(peers), ..self }
    }

    /// Counts event streams among the requests in flight of their clients.
    pub fn with_client_permits(self, client_permits: ClientPermits) -> Self {
        Self { client_permits, ..self }
    }

    /// Asks visitors for a proof of work when they acquire more than `above` instances of a template in an hour; `None`
    /// asks for none.
    pub fn with_proof_of_work(self, above: Option<u32>) -> Self {
        Self { proof_of_work_above: above, ..self }
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
        if self.trusted_origins.is_preflight(request.head) {
            return Ok(preflight_response());
        }
        self.check_caller(&path, &request)?;
        if self.trusted_origins.is_cross_site(request.head) {
            return refuse_cross_site(&request);
        }
        let method = match &request.head.method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        match (method, path) {
            (&Method::POST, Path::Acquire) => self.acquire(request).await,
            (&Method::GET, Path::Instance(id)) => self.get_instance(&parse_id(id)?, request).await,
            (&Method::DELETE, Path::Instance(id)) => self.release(&parse_id(id)?, request).await,
            (&Method::POST, Path::Extend(id)) => self.extend(&parse_id(id)?, request).await,
            (&Method::GET, Path::Status(id)) => self.status(&parse_id(id)?, request).await,
            (&Method::GET, Path::Logs(id)) => self.logs(&parse_id(id)?, request).await,
            (&Method::GET, Path::PoolStats) => self.pool_stats(request).await,
            (&Method::GET, Path::Client) => self.client(request).await,
            (&Method::GET, Path::Nodes) => self.nodes().await,
            (&Method::POST, Path::Drain(id)) => self.drain(id, true).await,
            (&Method::DELETE, Path::Drain(id)) => self.drain(id, false).await,
            (&Method::GET, Path::Health) => self.health().await,
            (&Method::OPTIONS, Path::Server | Path::FrontPage | Path::Health) => {
                Ok(response::options(path.allow()))
            }
            (&Method::GET, Path::Metrics) => self.metrics(request).await,
            (&Method::GET, Path::FrontPage) => self.front_page(request).await,
            (&Method::GET, Path::ReadyFeed) => self.ready_feed(request).await,
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

/// Returns the answer to a browser that asks whether the script of a site with a button may send a request.
fn preflight_response() -> Response<Body> {
    let mut response = response::with_body(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, DELETE"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("content-type, x-instance-token, x-request-id"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
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
