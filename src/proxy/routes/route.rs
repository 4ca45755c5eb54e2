//! One route: from a host to an assigned instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::idle_sockets::SocketStack;
use crate::clock::Millis;
use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, Lease, NodeId};

/// The route to one assigned instance. It belongs to one claim: if that is undone and the instance claimed again, the
/// new claim has a route of its own.
#[derive(Debug)]
pub struct Route {
    id: InstanceId,
    node: NodeId,
    incarnation: u64,
    token: ClaimToken,
    endpoint: Endpoint,
    generation: AtomicU64,
    deadline: AtomicU64,
    is_used: AtomicBool,
    /// Requests in flight, tunnels included.
    in_flight: AtomicUsize,
    idle_sockets: SocketStack,
    ended: CancellationToken,
}

/// A request in flight for one instance. It counts until it is dropped.
#[derive(Debug)]
pub struct RoutePermit(Arc<Route>);

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Route {
    /// Creates the route of an assigned instance.
    pub(super) fn new(instance: &Instance, lease: &Lease, endpoint: Endpoint, incarnation: u64) -> Self {
        Self {
            id: instance.id().clone(),
            node: instance.node().clone(),
            token: lease.token(),
            incarnation,
            endpoint,
            generation: AtomicU64::new(instance.generation()),
            deadline: AtomicU64::new(lease.deadline().0),
            is_used: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle_sockets: SocketStack::default(),
            ended: CancellationToken::new(),
        }
    }

    /// Returns the instance's id.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Returns the node that runs the instance. Only that node can connect to the endpoint.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Returns where the instance's app listens, as its own node knows it.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Returns a number that no other route of this process has. Upstream connections are grouped by it, so that none
    /// that was made for one instance serves another that later gets the same address.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns the lease's deadline, which an extension may move while the route is held.
    pub fn deadline(&self) -> Millis {
        Millis(self.deadline.load(Ordering::Acquire))
    }

    /// Returns whether a request used this route, or named the instance in the API.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// Marks the route as used. Returns `true` for the first use.
    pub fn mark_used(&self) -> bool {
        // Read first: a write of the same value would take the cache line from the other processors.
        !self.is_used() && !self.is_used.swap(true, Ordering::Relaxed)
    }

    /// Counts a request until the permit is dropped. Returns `None` if `max` requests are in flight.
    pub fn try_begin(self: &Arc<Self>, max: usize) -> Option<RoutePermit> {
        // Counted first: two requests for the last place may both be refused, and never both be let in.
        let permit = RoutePermit(self.clone());
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < max).then_some(permit)
    }

    /// Takes a socket to the app that was kept after an earlier request of this route, see
    /// [`IdleSockets`](super::IdleSockets).
    pub fn take_idle_socket(&self) -> Option<TcpStream> {
        self.idle_sockets.take()
    }

    /// Returns the sockets that are kept while no request uses them.
    pub(super) fn idle_sockets(&self) -> &SocketStack {
        &self.idle_sockets
    }

    /// Waits until the instance is no longer assigned to this visitor, for whatever reason.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Returns whether the route belongs to the claim of this lease.
    pub(super) fn belongs_to(&self, lease: &Lease) -> bool {
        self.token == lease.token()
    }

    /// Returns the generation of the newest record that was applied.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Applies a newer record of the same claim.
    pub(super) fn update(&self, generation: u64, lease: &Lease) {
        self.generation.store(generation, Ordering::Release);
        self.deadline.store(lease.deadline().0, Ordering::Release);
    }

    /// Wakes all that wait in [`Route::ended`], and closes the idle sockets.
    pub(super) fn end(&self) {
        self.idle_sockets.close();
        self.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::instance::TemplateName;

    #[test]
    fn an_instance_has_so_many_requests_in_flight_and_no_more() {
        let instance = Instance::warming(
            InstanceId::random(&TemplateName::new("t").unwrap()),
            NodeId::random(),
            0,
            Millis(1),
        );
        let lease = Lease::new(ClaimToken::random(), Millis(1), Duration::from_secs(1));
        let route = Arc::new(Route::new(&instance, &lease, Endpoint::from(([127, 0, 0, 1], 1)), 1));
        let held: Vec<_> = (0..3).filter_map(|_| route.try_begin(2)).collect();
        assert_eq!(held.len(), 2);
        assert!(route.try_begin(2).is_none());
        drop(held);
        assert!(route.try_begin(1).is_some());
    }
}
