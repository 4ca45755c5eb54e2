//! The proxy and what it uses.

use std::sync::Arc;
use std::time::Duration;

use super::request_permit::RequestLimits;
use super::routes::RouteTable;
use crate::api::Api;
use crate::clock::Clock;
use crate::cluster::{Directory, PeerTls};
use crate::config::PublicUrl;
use crate::config::TrustedProxies;
use crate::pool::Instances;
use crate::request::{Hosts, InFlightRequests};
use crate::telemetry::Metrics;

/// The pattern of every path on an instance's host, for logs and metrics: the paths there are the app's own.
pub(super) const INSTANCE_PATH_PATTERN: &str = "/*";

/// What the proxy uses.
pub struct ProxyParts {
    /// Maps a request's host to its destination.
    pub hosts: Arc<Hosts>,
    /// Answers requests for the API that arrive on a connection that Pingora holds.
    pub api: Arc<Api>,
    /// The routes of all instances.
    pub routes: Arc<RouteTable>,
    /// Is asked for hosts that the route table does not know.
    pub instances: Arc<Instances>,
    /// The current time.
    pub clock: Clock,
    /// How visitors reach this node.
    pub public_url: Arc<PublicUrl>,
    /// Where the other nodes are reached.
    pub directory: Arc<Directory>,
    /// TLS to other nodes; `None` where the nodes use none on their port.
    pub peer_tls: Option<PeerTls>,
    /// Counts requests and writes their log lines.
    pub metrics: Arc<Metrics>,
    /// The proxies whose forwarded headers are trusted.
    pub trusted_proxies: TrustedProxies,
    /// How long a client may pause while it sends its request.
    pub read_timeout: Duration,
    /// How long a client may leave a response unread.
    pub write_timeout: Duration,
    /// How many requests are carried at a time.
    pub limits: RequestLimits,
    /// The requests that a shutdown waits for.
    pub in_flight: InFlightRequests,
}

/// The proxy. Cloning it is cheap: all clones share their state.
#[derive(Clone)]
pub struct Proxy(pub(super) Arc<ProxyParts>);

impl Proxy {
    /// Creates a proxy from its parts.
    pub fn new(parts: ProxyParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Returns the map from a request's host to its destination.
    pub fn hosts(&self) -> &Hosts {
        &self.0.hosts
    }

    /// Returns the requests that a shutdown waits for.
    pub fn in_flight(&self) -> &InFlightRequests {
        &self.0.in_flight
    }
}
