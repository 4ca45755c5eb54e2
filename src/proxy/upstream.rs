//! The connection to an instance's app.

use std::time::Duration;

use pingora_core::upstreams::peer::{H1UpgradePolicy, HttpPeer};

use crate::routes::Route;

/// Longest time until a connection stands. Apps are on this host: one that refuses does so at once, and to one whose
/// queue is full the system knocks again after one and after three seconds.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept. Shorter than what app servers keep theirs (Node.js: 5 s), since a request
/// sent while the app closes is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How Pingora reaches the app of a route.
pub(super) fn peer(route: &Route, silence: Option<Duration>, write_timeout: Duration) -> HttpPeer {
    let mut peer = HttpPeer::new(route.endpoint(), false, String::new());
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
