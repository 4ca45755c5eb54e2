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

use crate::instance::Endpoint;
use crate::pool::Pool;
use crate::routes::Route;

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
        peer.options.custom_l4 = Some(Arc::new(Door { pool: pool.clone(), endpoint }));
    }
    // Part of the key under which connections are kept: one made for this instance never serves another that later
    // gets the same address.
    peer.group_key = route.incarnation();
    peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.read_timeout = silence;
    peer.options.write_timeout = Some(write_timeout);
    peer.options.idle_timeout = Some(IDLE_TIMEOUT);
    // Upgrades are tunnelled by ourselves; any other may be declined by not passing it on.
    peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
    peer
}

/// The way into a sealed instance.
struct Door {
    pool: Arc<Pool>,
    endpoint: Endpoint,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.endpoint).finish()
    }
}

#[async_trait]
impl Connect for Door {
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
