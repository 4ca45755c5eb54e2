//! The upstream connection to an instance's app.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{H1UpgradePolicy, HttpPeer};
use pingora_core::{Error, ErrorType, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::routes::{IDLE_TIMEOUT, Route};
use crate::instance::Endpoint;
use crate::pool::Instances;

/// Longest time to establish a connection. Apps are on this host: one that refuses does so at once, and if an app's
/// accept queue is full, the kernel repeats the SYN after one and after three seconds.
pub(super) const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of the kernel's receive buffer of an upstream connection, in bytes. While a client does not read, Pingora holds
/// about ten pieces of the response, each of what one read returns: 64 KiB with large buffers.
pub(super) const UPSTREAM_RECV_BUFFER: usize = 32 * 1024;

/// Returns how Pingora reaches the app of a route. `read_timeout` is how long the app may be silent.
pub(super) fn peer(
    instances: &Arc<Instances>,
    route: &Route,
    read_timeout: Option<Duration>,
    write_timeout: Duration,
) -> HttpPeer {
    let endpoint = route.endpoint();
    let address = match endpoint {
        Endpoint::Direct(address) => address,
        // What a socket in the namespace reports as its peer address. Pingora compares it before it reuses a
        // connection.
        Endpoint::Sealed { port, .. } => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Endpoint::SealedIpv6 { port, .. } => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    };
    let mut peer = HttpPeer::new(address, false, String::new());
    if let Endpoint::Sealed { .. } | Endpoint::SealedIpv6 { .. } = endpoint {
        peer.options.custom_l4 = Some(Arc::new(SealedConnector { instances: instances.clone(), endpoint }));
    }
    set_common_options(&mut peer, route, read_timeout, write_timeout);
    peer.options.connection_timeout = Some(APP_CONNECT_TIMEOUT);
    peer.options.total_connection_timeout = Some(APP_CONNECT_TIMEOUT);
    peer
}

/// Sets the options that connections to an app and connections to another node have in common.
pub(super) fn set_common_options(
    peer: &mut HttpPeer,
    route: &Route,
    read_timeout: Option<Duration>,
    write_timeout: Duration,
) {
    // Part of the key under which Pingora keeps connections: a connection that was made for this instance never serves
    // another instance that later gets the same address.
    peer.group_key = route.incarnation();
    peer.options.read_timeout = read_timeout;
    peer.options.write_timeout = Some(write_timeout);
    peer.options.idle_timeout = Some(IDLE_TIMEOUT);
    peer.options.tcp_recv_buf = Some(UPSTREAM_RECV_BUFFER);
    // WebSockets do not come here (`websocket.rs`). Any other upgrade may be declined, by not forwarding the request
    // for it.
    peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
}

/// Connects to an app in a sealed network namespace.
struct SealedConnector {
    instances: Arc<Instances>,
    endpoint: Endpoint,
}

impl fmt::Debug for SealedConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealedConnector").field(&self.endpoint).finish()
    }
}

#[async_trait]
impl Connect for SealedConnector {
    /// Has no deadline of its own: the peer's `total_connection_timeout` bounds it.
    async fn connect(&self, _: &PeerAddress) -> Result<Stream> {
        match self.instances.connect(self.endpoint).await {
            Ok(stream) => {
                // A failure only leaves the buffer larger.
                let _ = set_socket_recv_buffer_size(&stream, UPSTREAM_RECV_BUFFER);
                Ok(stream.into())
            }
            Err(error) => {
                let context = format!("cannot connect to {}", self.endpoint);
                Err(Error::because(ErrorType::ConnectError, context, error).into_up())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_core::ErrorSource;
    use pingora_core::connectors::TransportConnector;
    use pingora_core::upstreams::peer::Peer as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::Millis;
    use crate::instance::{ClaimToken, Instance, InstanceId, NodeId, TemplateName};
    use crate::pool::tests::fixture::sealed_pool;
    use crate::proxy::routes::{RouteLookup, RouteTable};
    use crate::store::RouteChange;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Returns the route of a new instance at an endpoint.
    fn route(table: &RouteTable, endpoint: Endpoint) -> Arc<Route> {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let instance = Instance::warming(id.clone(), NodeId::random(), 1, Millis(0))
            .offered(endpoint)
            .unwrap()
            .assigned(ClaimToken::random(), Millis(0), Duration::from_secs(60))
            .unwrap();
        table.apply(&RouteChange::Set(instance));
        match table.find(id.as_str()) {
            RouteLookup::Live(route) => route,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_connection_into_a_namespace_is_reused_for_the_same_instance_only() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = app.local_addr().unwrap();
        let (pool, table) = (sealed_pool(at), RouteTable::default());
        // All listen at the same address in their namespaces, and one at that address in the host's.
        let sealed = |namespace| Endpoint::Sealed { namespace, port: at.port() };
        let one = route(&table, sealed(1));
        let peer_of = |route: &Route| peer(&pool.instances, route, None, PATIENCE);
        let connector = TransportConnector::new(None);
        let (stream, reused) = connector.get_stream(&peer_of(&one)).await.unwrap();
        assert!(!reused);
        let _accepted = app.accept().await.unwrap();
        connector.release_stream(stream, peer_of(&one).reuse_hash(), None);
        for other in [sealed(2), sealed(1), at.into()] {
            let other = route(&table, other);
            assert!(connector.reused_stream(&peer_of(&other)).await.is_none(), "{}", other.endpoint());
        }
        assert!(connector.reused_stream(&peer_of(&one)).await.is_some());
    }

    #[tokio::test]
    async fn an_unreachable_app_in_a_namespace_is_an_upstream_error() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (pool, table) = (sealed_pool(gone), RouteTable::default());
        let route = route(&table, Endpoint::Sealed { namespace: 1, port: gone.port() });
        let connector = TransportConnector::new(None);
        let error = connector.get_stream(&peer(&pool.instances, &route, None, PATIENCE)).await.err().unwrap();
        assert_eq!((error.esource(), error.etype()), (&ErrorSource::Upstream, &ErrorType::ConnectError));
    }
}
