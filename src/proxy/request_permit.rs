//! How many requests the proxy carries at a time: for one instance, for one client, and for all.
//!
//! A request that waits for an app holds an upstream connection, and one whose client does not read holds buffers. So
//! each counts until it has ended, whatever it is: an upload that trickles, an unread response, an event stream, an idle
//! WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;

use super::Proxy;
use super::headers::RequestSource;
use super::routes::{Route, RoutePermit};
use crate::api::ApiError;
use crate::request::{ClientAddr, ClientPermit, ClientPermits};

/// The limits of requests in flight.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Requests of one client. The API counts its event streams here too.
    pub clients: ClientPermits,
    /// Requests for one instance.
    pub per_instance: usize,
    /// Requests for all instances: each may need a descriptor for its upstream connection.
    pub total: usize,
    in_flight: Arc<AtomicUsize>,
}

/// A request that counts in each limit until it is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    _client: Option<ClientPermit>,
    _instance: RoutePermit,
    _total: TotalPermit,
}

#[derive(Debug)]
struct TotalPermit(Arc<AtomicUsize>);

impl Drop for TotalPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestLimits {
    /// Sets the limits.
    pub fn new(clients: ClientPermits, per_instance: usize, total: usize) -> Self {
        Self { clients, per_instance, total, in_flight: Arc::default() }
    }

    fn try_begin(&self) -> Option<TotalPermit> {
        let permit = TotalPermit(self.in_flight.clone());
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < self.total).then_some(permit)
    }
}

impl Proxy {
    /// Counts a request for an instance until the permit is dropped. A request that a peer forwards was counted there
    /// for its client.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`], [`ApiError::InstanceBusy`] or [`ApiError::TooManyConnections`], by the limit that
    /// is reached.
    pub(super) fn begin_request(
        &self,
        route: &Arc<Route>,
        headers: &HeaderMap,
        source: RequestSource<'_>,
    ) -> Result<RequestPermit, ApiError> {
        let limits = &self.0.limits;
        let client = if source.provenance.is_trusted() {
            None
        } else {
            let client = ClientAddr::of(source.peer, source.is_secure, headers, &self.0.trusted_proxies);
            Some(limits.clients.try_begin(&client).ok_or(ApiError::TooManyRequests)?)
        };
        Ok(RequestPermit {
            _client: client,
            _instance: route.try_begin(limits.per_instance).ok_or(ApiError::InstanceBusy)?,
            _total: limits.try_begin().ok_or(ApiError::TooManyConnections)?,
        })
    }
}
