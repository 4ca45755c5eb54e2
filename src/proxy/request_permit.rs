//! How many requests the proxy carries at a time: for one instance, for one client, and for all.
//!
//! A request that waits for an app holds an upstream connection, and one whose client does not read holds buffers. So
//! each counts until it has ended, whatever it is: an upload that trickles, an unread response, an event stream, an idle
//! WebSocket.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Version, header};

use super::Proxy;
use super::routes::{IdleSockets, Route, RoutePermit};
use crate::api::{ApiError, MAX_BODY};
use crate::request::{
    Budget, BudgetPermit, ClientPermit, ClientPermits, RequestContext, UNREAD_RESPONSE_BYTES,
};

/// A response up to this length counts for no bytes: it fits into the kernel's buffer.
const SMALL_RESPONSE_BYTES: usize = 16 * 1024;

/// The part of the budget of bytes that one client may use.
const CLIENT_SHARE: usize = 16;

/// What the proxy may use at most.
#[derive(Debug, Clone, Copy)]
pub struct RequestMaxima {
    /// Requests in flight for one instance.
    pub per_instance: usize,
    /// Requests in flight for all instances: each may need a descriptor for its upstream connection.
    pub total: usize,
    /// Bytes of messages that clients have not taken, or not sent to their end.
    pub buffered_bytes: usize,
    /// Upstream connections that Pingora keeps while no request uses them.
    pub idle_upstreams: usize,
    /// Sockets to apps that the forwarder keeps while no request uses them.
    pub idle_app_sockets: usize,
}

/// Counts what the requests in flight use, up to the maxima.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    maxima: RequestMaxima,
    /// Requests of one client. The API counts its event streams here too.
    clients: ClientPermits,
    buffers: Budget,
    client_buffers: ClientPermits,
    in_flight: Budget,
    pub(super) idle_sockets: Arc<IdleSockets>,
}

/// A request that counts in each limit until it is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    /// The client; `None` for a request that a peer forwards.
    pub(super) client: Option<IpAddr>,
    _client: Option<ClientPermit>,
    _instance: RoutePermit,
    _total: BudgetPermit,
}

/// The bytes of one response, which count until this is dropped.
#[derive(Debug)]
pub(super) struct ResponsePermit {
    _client: Option<ClientPermit>,
    _all: BudgetPermit,
}

impl RequestLimits {
    /// Sets the limits.
    pub fn new(clients: ClientPermits, maxima: RequestMaxima) -> Self {
        // At least one large response for each client.
        let client_bytes = (maxima.buffered_bytes / CLIENT_SHARE).max(UNREAD_RESPONSE_BYTES);
        Self {
            client_buffers: clients.with_max(client_bytes),
            clients,
            buffers: Budget::new(maxima.buffered_bytes),
            in_flight: Budget::new(maxima.total),
            idle_sockets: Arc::new(IdleSockets::new(maxima.idle_app_sockets)),
            maxima,
        }
    }

    /// Counts the bytes that the response of an app, of this length if it is known, may occupy while its client does not
    /// read. A client may use a sixteenth of the budget; small responses count for nothing.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`] or [`ApiError::TooManyConnections`], when the client or all clients together have
    /// fewer bytes left.
    pub(super) fn begin_response(
        &self,
        client: Option<IpAddr>,
        length: Option<usize>,
        is_event_stream: bool,
    ) -> Result<ResponsePermit, ApiError> {
        let bytes = match length {
            _ if is_event_stream => 0,
            Some(length) if length <= SMALL_RESPONSE_BYTES => 0,
            length => length.unwrap_or(UNREAD_RESPONSE_BYTES).min(UNREAD_RESPONSE_BYTES),
        };
        let own = client.map(|client| self.client_buffers.try_take(client, bytes));
        Ok(ResponsePermit {
            _client: own.map(|own| own.ok_or(ApiError::TooManyRequests)).transpose()?,
            _all: self.buffers.try_reserve(bytes).ok_or(ApiError::TooManyConnections)?,
        })
    }
}

impl Proxy {
    /// Returns how many upstream connections Pingora keeps while no request uses them.
    pub fn max_idle_upstreams(&self) -> usize {
        self.0.limits.maxima.idle_upstreams
    }

    /// Counts the bytes of the body of a request for the API. Returns `None` if the budget has fewer left.
    pub fn reserve_body(&self, head: &Parts) -> Option<BudgetPermit> {
        let is_chunked =
            head.headers.contains_key(header::TRANSFER_ENCODING) || head.version == Version::HTTP_2;
        let length = content_length(&head.headers);
        let bytes = length.unwrap_or(if is_chunked { MAX_BODY } else { 0 }).min(MAX_BODY);
        self.0.limits.buffers.try_reserve(bytes)
    }

    /// Counts a request for an instance until the permit is dropped. A request that a peer forwards was counted there
    /// for its client.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`], [`ApiError::InstanceBusy`] or [`ApiError::TooManyConnections`], by the limit that
    /// is reached.
    pub(super) fn begin_request(
        &self,
        route: &Arc<Route>,
        context: &RequestContext<'_>,
    ) -> Result<RequestPermit, ApiError> {
        let limits = &self.0.limits;
        let client = (!context.provenance.is_trusted()).then_some(context.client.address);
        let permit = client.map(|client| limits.clients.try_take(client, 1).ok_or(ApiError::TooManyRequests));
        Ok(RequestPermit {
            client,
            _client: permit.transpose()?,
            _instance: route.try_begin(limits.maxima.per_instance).ok_or(ApiError::InstanceBusy)?,
            _total: limits.in_flight.try_reserve(1).ok_or(ApiError::TooManyConnections)?,
        })
    }
}

/// Returns the length that a message declares.
pub(super) fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
