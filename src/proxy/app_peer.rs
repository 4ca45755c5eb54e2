//! The connection to an instance's app.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{H1UpgradePolicy, HttpPeer};
use pingora_core::{Error, ErrorType, Result};

use super::routes::Route;
use crate::instance::Endpoint;
use crate::pool::Pool;

/// Longest time until a connection stands. Apps are on this host: one that refuses does so at once, and to one whose
/// queue is full the system knocks again after one and after three seconds.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept. Shorter than what app servers keep theirs (Node.js: 5 s), since a request
/// sent while the app closes is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How Pingora reaches the app of a route.
pub(super) fn peer(
    pool: &Arc<Pool>,
    route: &Route,
    silence: Option<Duration>,
    write_timeout: Duration,
) -> HttpPeer {
    let endpoint = route.endpoint();
    let address = match endpoint {
        Endpoint::Direct(address) => address,
        // What a connection into a namespace says of its other end, which Pingora compares before it uses it again.
        Endpoint::Sealed { port, .. } => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let mut peer = HttpPeer::new(address, false, String::new());
    if let Endpoint::Sealed { .. } = endpoint {
        peer.options.custom_l4 = Some(Arc::new(SealedConnector { pool: pool.clone(), endpoint }));
    }
    common(&mut peer, route, silence, write_timeout);
    peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
    peer
}

/// What both have: an app, and the server that runs one.
pub(super) fn common(peer: &mut HttpPeer, route: &Route, silence: Option<Duration>, write_timeout: Duration) {
    // Part of the key under which connections are kept: one made for this instance never serves another that later
    // gets the same address.
    peer.group_key = route.incarnation();
    peer.options.read_timeout = silence;
    peer.options.write_timeout = Some(write_timeout);
    peer.options.idle_timeout = Some(IDLE_TIMEOUT);
    // Upgrades are tunnelled by ourselves; any other may be declined by not passing it on.
    peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
}

/// The way into a sealed instance.
struct SealedConnector {
    pool: Arc<Pool>,
    endpoint: Endpoint,
}

impl fmt::Debug for SealedConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.endpoint).finish()
    }
}

#[async_trait]
impl Connect for SealedConnector {
    /// The peer's whole timeout bounds it.
    async fn connect(&self, _: &PeerAddress) -> Result<Stream> {
        match self.pool.connect(self.endpoint).await {
            Ok(stream) => Ok(stream.into()),
            Err(error) => {
                let what = format!("connect to {}", self.endpoint);
                Err(Error::because(ErrorType::ConnectError, what, error).into_up())
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
    use crate::proxy::routes::{Found, RouteTable};
    use crate::store::RouteChange;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// The route of a new instance at an endpoint.
    fn route(table: &RouteTable, endpoint: Endpoint) -> Arc<Route> {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let instance = Instance::warming(id.clone(), NodeId::random(), 1, Millis(0))
            .offered(endpoint)
            .unwrap()
            .assigned(ClaimToken::random(), Millis(0), Duration::from_secs(60))
            .unwrap();
        table.apply(&RouteChange::Set(instance));
        match table.find(id.as_str()) {
            Found::Live(route) => route,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_connection_into_a_namespace_is_used_again_for_the_same_instance_only() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = app.local_addr().unwrap();
        let (pool, table) = (sealed_pool(at), RouteTable::default());
        // All of them listen at the same address inside, and one at that very address outside.
        let sealed = |namespace| Endpoint::Sealed { namespace, port: at.port() };
        let one = route(&table, sealed(1));
        let peer_of = |route: &Route| peer(&pool, route, None, PATIENCE);
        let connector = TransportConnector::new(None);
        let (stream, reused) = connector.get_stream(&peer_of(&one)).await.unwrap();
        assert!(!reused);
        let _other_end = app.accept().await.unwrap();
        connector.release_stream(stream, peer_of(&one).reuse_hash(), None);
        for other in [sealed(2), sealed(1), at.into()] {
            let other = route(&table, other);
            assert!(connector.reused_stream(&peer_of(&other)).await.is_none(), "{}", other.endpoint());
        }
        assert!(connector.reused_stream(&peer_of(&one)).await.is_some());
    }

    #[tokio::test]
    async fn an_app_that_cannot_be_reached_in_its_namespace_is_the_apps_failure() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (pool, table) = (sealed_pool(gone), RouteTable::default());
        let route = route(&table, Endpoint::Sealed { namespace: 1, port: gone.port() });
        let connector = TransportConnector::new(None);
        let error = connector.get_stream(&peer(&pool, &route, None, PATIENCE)).await.err().unwrap();
        assert_eq!((error.esource(), error.etype()), (&ErrorSource::Upstream, &ErrorType::ConnectError));
    }
}
