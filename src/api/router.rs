//! The handler of the API: the flat match from method and path to an endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access::ApiKey;
use super::cross_site::TrustedOrigins;
use super::path::Path;
use super::proof_of_work::ProofsOfWork;
use super::ready_counts::ReadyTicker;
use super::request::{ApiRequest, accepts_html};
use super::{ApiError, Body, pages, response};
use crate::clock::Clock;
use crate::cluster::queue::Queue;
use crate::cluster::{Membership, PeerClient};
use crate::config::{PublicUrl, TrustedProxies};
use crate::instance::InstanceId;
use crate::pool::{Claims, Instances, Pool, Statistics, Supply};
use crate::request::{ClientPermits, RequestContext, RequestId};
use crate::telemetry::{HostKind, Metrics, RequestRecord};

/// The pattern of the path of a refused head, in metrics and log lines. No request has such a path.
const REFUSED_HEAD_PATTERN: &str = "/.refused/{status}";

/// Handles every request whose host is not an instance's.
pub struct Api {
    pub(super) claims: Arc<Claims>,
    pub(super) instances: Arc<Instances>,
    pub(super) statistics: Arc<Statistics>,
    pub(super) supply: Arc<Supply>,
    pub(super) membership: Arc<Membership>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) clock: Clock,
    pub(super) public_url: Arc<PublicUrl>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) api_key: ApiKey,
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
    /// Read while requests may be in flight, written to wait for their end.
    requests: Arc<RwLock<()>>,
    /// Whether another process answers for the API.
    is_finished: AtomicBool,
}

/// A caller of [`Api::handle`] that has entered.
pub struct ApiPass(#[expect(dead_code, reason = "it is held, not read")] OwnedRwLockReadGuard<()>);

impl Api {
    /// Creates the API of a pool. `shutdown` ends event streams.
    pub fn new(
        pool: &Pool,
        metrics: Arc<Metrics>,
        api_key: ApiKey,
        trusted_proxies: TrustedProxies,
        trusted_origins: TrustedOrigins,
        shutdown: CancellationToken,
    ) -> Self {
        // Without limits until they are set.
        let client_permits = ClientPermits::new(usize::MAX, trusted_proxies);
        Self {
            client_permits,
            ready_ticker: ReadyTicker::new(pool.statistics.clone(), shutdown.clone()),
            claims: pool.claims.clone(),
            instances: pool.instances.clone(),
            statistics: pool.statistics.clone(),
            supply: pool.supply.clone(),
            membership: pool.membership().clone(),
            queue: pool.queue().clone(),
            clock: pool.clock().clone(),
            public_url: pool.public_url().clone(),
            metrics,
            api_key,
            trusted_origins,
            proof_of_work_above: None,
            proofs_of_work: ProofsOfWork::default(),
            peers: None,
            shutdown,
            requests: Arc::default(),
            is_finished: AtomicBool::new(false),
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

    /// Lets the caller begin requests until the pass is dropped. `None` once [`Api::finish`] was called.
    pub fn enter(&self) -> Option<ApiPass> {
        let pass = self.requests.clone().try_read_owned().ok()?;
        (!self.is_finished.load(Ordering::Acquire)).then_some(ApiPass(pass))
    }

    /// Lets no caller enter any more, and waits until those that have entered are done, for at most `limit`. Requests
    /// that have not arrived as a whole by then are refused.
    pub async fn finish(&self, limit: Duration) {
        let done = tokio::time::timeout(limit, self.requests.write()).await;
        self.is_finished.store(true, Ordering::Release);
        if done.is_err() {
            tracing::info!("some requests for the API have not arrived as a whole, and are refused");
        }
    }

    /// Answers one request, counts it in the metrics and writes its log line.
    ///
    /// The caller has entered, except to ask for the health. `body` is the whole body, or the reason why it could not be
    /// read. If the request has a hop header, the caller has removed it.
    pub async fn handle(
        &self,
        head: &Parts,
        body: Result<Bytes, ApiError>,
        context: &RequestContext<'_>,
    ) -> Response<Body> {
        let request_id = &context.id;
        let path = Path::parse(head.uri.path());
        let is_health = matches!(path, Path::Health);
        let result = match body {
            Ok(_) if self.is_finished.load(Ordering::Acquire) && !is_health => {
                Err(ApiError::StoreUnavailable)
            }
            Ok(body) => self.route(path, ApiRequest { head, body, context }).await,
            Err(error) => Err(error),
        };
        let mut response = result.unwrap_or_else(|error| error.to_response(request_id));
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
            took: context.start.elapsed(),
        });
        response
    }

    /// Returns the last response of a connection on which a head was refused before it was read as a request. Counts it
    /// in the metrics, as a request without a known method or host, and writes its log line.
    pub fn refuse_head(&self, error: &ApiError) -> Response<Body> {
        let (start, request_id) = (Instant::now(), RequestId::generate());
        let mut response = error.to_response(&request_id);
        let headers = response.headers_mut();
        headers.insert(RequestId::HEADER, request_id.to_header_value());
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        self.metrics.record_request(RequestRecord {
            id: request_id.as_str(),
            host: HostKind::Api,
            method: &Method::GET,
            path: REFUSED_HEAD_PATTERN,
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
            (&Method::GET, Path::Queue) => self.queue().await,
            (&Method::POST, Path::RetryJob(id)) => self.retry_job(id).await,
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
            (_, Path::Unknown) => Err(ApiError::NotFound("path")),
            (_, path) => Err(ApiError::MethodNotAllowed(path.allow())),
        }
    }
}

/// Refuses the request of another site, with a page if the client is a browser that shows one.
fn refuse_cross_site(request: &ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
    if accepts_html(&request.head.headers) {
        return Ok(response::html(StatusCode::FORBIDDEN, pages::cross_site(request.context.id.as_str())));
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

/// Turns the response to GET into the response to HEAD: the same headers, with the body's length, and no body.
fn remove_body(response: &mut Response<Body>) {
    if let Body::Full(Some(bytes)) = std::mem::replace(response.body_mut(), Body::empty()) {
        response.headers_mut().insert(header::CONTENT_LENGTH, bytes.len().into());
    }
}
