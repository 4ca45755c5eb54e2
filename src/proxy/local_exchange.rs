//! What the server's own forwarder needs of the proxy for one exchange with an app of this node: the route, the permits,
//! the rules for headers, the error response, the metrics. They are those of Pingora's phases, see `phases.rs`.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Proxy;
use super::app_peer::{APP_CONNECT_TIMEOUT, UPSTREAM_RECV_BUFFER};
use super::head_changes::{ResponseChanges, is_read_in_request, is_read_in_response};
use super::headers::{ForwardedHeaders, is_event_stream, joined_cookies, named_by_connection};
use super::request_permit::{RequestPermit, ResponsePermit};
use super::routes::{Route, RouteLookup};
use super::service::INSTANCE_PATH_PATTERN;
use super::silence::is_stream;
use super::target::Target;
use crate::api::{ApiError, Body};
use crate::request::{Destination, InFlightGuard, RequestContext, RequestId};
use crate::telemetry::{HostKind, RequestRecord};

/// One exchange with an app of this node. It counts in the limits until it is dropped.
pub(crate) struct LocalExchange {
    proxy: Proxy,
    route: Arc<Route>,
    head: Parts,
    request_id: RequestId,
    forwarded: ForwardedHeaders,
    start: Instant,
    in_flight: InFlightGuard,
    permit: Option<RequestPermit>,
    response_permit: Option<ResponsePermit>,
}

/// What the type of an answer and its headers mean for the exchange.
pub(crate) struct AnswerRules {
    changes: ResponseChanges,
    /// Whether the app may be silent between two pieces of the answer.
    pub(crate) is_stream: bool,
}

impl Proxy {
    /// Returns the live route of a destination, if this node runs the instance.
    pub(crate) fn local_route(&self, destination: &Destination<'_>) -> Option<Arc<Route>> {
        let Destination::Instance(label) = destination else { return None };
        match self.0.routes.find(label) {
            RouteLookup::Live(route) if route.node() == self.0.directory.own_id() => Some(route),
            _ => None,
        }
    }

    /// Begins an exchange for a request. Of the headers in `head`, those may be absent whose values
    /// no rule reads, see [`is_read`]. The second value says why the request is refused, if it is.
    pub(crate) fn begin_exchange(
        &self,
        route: Arc<Route>,
        head: Parts,
        context: RequestContext<'_>,
    ) -> (LocalExchange, Option<ApiError>) {
        let in_flight = self.0.in_flight.begin();
        let permit = self.use_route(&route).and_then(|()| self.begin_request(&route, &context));
        let (permit, refusal) = match permit {
            Ok(permit) => (Some(permit), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let forwarded =
            self.forwarded_headers(&head, &context).for_target(&route, &Target::App, &self.0.clock);
        let proxy = self.clone();
        let exchange = LocalExchange {
            proxy,
            route,
            head,
            request_id: context.id,
            forwarded,
            start: context.start,
            in_flight,
            permit,
            response_permit: None,
        };
        (exchange, refusal)
    }

    /// Returns how long a client may pause while it sends its request, and an app may take no byte of it.
    pub(crate) fn timeouts(&self) -> (Duration, Duration) {
        (self.0.read_timeout, self.0.write_timeout)
    }

    /// Closes sockets to apps that have been idle for too long, again and again.
    pub(crate) async fn sweep_idle_sockets(self) {
        self.0.limits.idle_sockets.sweep().await;
    }
}

/// Returns whether a rule reads the value of a request's header (`is_request`) or of an answer's. The name is in lower
/// case.
pub(crate) fn is_read(name: &str, is_request: bool) -> bool {
    if is_request { is_read_in_request(name) } else { is_read_in_response(name) }
}

impl LocalExchange {
    /// Returns whether the app gets no header of this name, in lower case, from the client.
    pub(crate) fn removes_from_request(&self, name: &str) -> bool {
        self.forwarded.removes(name)
    }

    /// Returns the headers that are added to the request.
    pub(crate) fn added_to_request(&self) -> &[(HeaderName, HeaderValue)] {
        self.forwarded.set()
    }

    /// Returns the headers that the request declares to concern one connection only, if it names any.
    pub(crate) fn named_by_connection(&self) -> Vec<HeaderName> {
        let has_names = self.head.headers.contains_key(header::CONNECTION);
        if has_names { named_by_connection(&self.head.headers) } else { Vec::new() }
    }

    /// Returns all cookies of the request on one line, if there are several lines.
    pub(crate) fn joined_cookies(&self) -> Option<HeaderValue> {
        joined_cookies(&self.head.headers)
    }

    /// Whether the request asks for the head of an answer only.
    pub(crate) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// Whether the app may get the request twice.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.head.method.is_idempotent()
    }

    /// Returns how long the app may be silent before its answer begins; `None` without a limit.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.proxy.upstream_read_timeout(&self.route, &Target::App, &self.head.headers)
    }

    /// Takes a socket to the app that was kept after an earlier exchange.
    pub(crate) fn take_socket(&self) -> Option<TcpStream> {
        self.route.take_idle_socket()
    }

    /// Keeps a socket for later exchanges, or closes it.
    pub(crate) fn keep_socket(&self, socket: TcpStream) {
        self.proxy.0.limits.idle_sockets.keep(&self.route, socket);
    }

    /// Connects to the app.
    ///
    /// # Errors
    /// [`ApiError::AppUnreachable`] if it accepts no connection, [`ApiError::AppTimeout`] if it accepts none in time.
    pub(crate) async fn connect(&self) -> Result<TcpStream, ApiError> {
        let connecting = self.proxy.0.instances.connect(self.route.endpoint());
        let connected = timeout(APP_CONNECT_TIMEOUT, connecting).await.map_err(|_| ApiError::AppTimeout)?;
        let socket = connected.map_err(|_| ApiError::AppUnreachable)?;
        // A failure only leaves the buffer larger, or a piece waiting for an acknowledgement.
        let _ = set_socket_recv_buffer_size(&socket, UPSTREAM_RECV_BUFFER);
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }

    /// Returns the rules for an interim answer with these headers.
    pub(crate) fn interim_rules(&self, headers: &HeaderMap) -> AnswerRules {
        let links = self.proxy.replaced_links(headers, &self.route, &Target::App);
        AnswerRules { changes: ResponseChanges::of(headers, links), is_stream: false }
    }

    /// Counts the answer with these headers, whose body has this length if it is known, and returns its rules.
    ///
    /// # Errors
    /// Those of [`RequestLimits::begin_response`](super::RequestLimits).
    pub(crate) fn begin_answer(
        &mut self,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> Result<AnswerRules, ApiError> {
        let client = self.permit.as_ref().and_then(|permit| permit.client);
        let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let limits = &self.proxy.0.limits;
        self.response_permit = Some(limits.begin_response(client, length, is_event_stream(headers))?);
        let is_stream = is_stream(headers);
        if is_stream {
            self.in_flight.mark_as_stream();
        }
        Ok(AnswerRules { is_stream, ..self.interim_rules(headers) })
    }

    /// Returns the id, which the answer gets too.
    pub(crate) fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// Returns the response for a failed exchange.
    pub(crate) fn error_response(&self, error: &ApiError) -> Response<Body> {
        self.proxy.error_response(error, &self.head, &self.request_id)
    }

    /// Counts the exchange in the metrics and writes its log line. `status` is that of the response, 0 without one.
    pub(crate) fn finish(self, status: u16) {
        self.proxy.0.metrics.record_request(RequestRecord {
            id: self.request_id.as_str(),
            host: HostKind::Instance,
            method: &self.head.method,
            path: INSTANCE_PATH_PATTERN,
            status,
            took: self.start.elapsed(),
        });
    }
}

impl AnswerRules {
    /// Returns whether the client gets no header of this name, in lower case, from the app.
    pub(crate) fn removes(&self, name: &str) -> bool {
        name == RequestId::HEADER || self.changes.removes(name)
    }

    /// Returns the headers that are added to the answer, besides the request's id.
    pub(crate) fn added(&self) -> &[(HeaderName, HeaderValue)] {
        &self.changes.added
    }
}
