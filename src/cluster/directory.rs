//! Where each peer is reached, and the secret that signs hops. It is read without a lock on each forwarded request.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::hop_header;
use super::hop_header::HopKey;
use crate::clock::Millis;
use crate::instance::NodeId;
use crate::request::Provenance;
use crate::template::NodeSecret;

/// How long the resolved address of a host name is used before it is resolved again.
const RESOLUTION_TTL: Duration = Duration::from_secs(10);
/// Longest time of resolving a host name.
const RESOLUTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time to wait for the address of a node that is not in the directory yet. The directory is updated each
/// second, and the store may assign an instance of a new node before the next update.
const NEW_NODE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A node to which no request can be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot reach node {node}: {why}")]
pub struct UnreachableNode {
    /// The node.
    pub node: NodeId,
    /// What is missing.
    pub why: String,
}

/// Where each peer is reached, and the secret that all nodes share. [`Directory::update`] replaces all of it at once.
#[derive(Debug)]
pub struct Directory {
    own_id: NodeId,
    snapshot: ArcSwap<Snapshot>,
    /// Changes with each update.
    updated: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Snapshot {
    /// Of each peer.
    addresses: HashMap<NodeId, Arc<PeerAddress>>,
    /// `None` until the first update: then no request is forwarded, and no hop is trusted.
    secret: Option<(NodeSecret, HopKey)>,
}

/// Where one peer is reached.
#[derive(Debug)]
struct PeerAddress {
    /// `host:port`.
    text: String,
    /// Of a host name: when it was resolved, and to which address.
    resolved: ArcSwapOption<(Instant, SocketAddr)>,
}

impl Directory {
    /// Creates the directory of the node `own_id`, which knows no peer until the first update; with the embedded store
    /// it never knows any.
    pub fn alone(own_id: NodeId) -> Self {
        Self { own_id, snapshot: ArcSwap::default(), updated: watch::Sender::new(()) }
    }

    /// Returns the id of this node.
    pub fn own_id(&self) -> &NodeId {
        &self.own_id
    }

    /// Replaces the peers, each with its `host:port`, and the secret that all nodes share. `nodes` may contain this
    /// node, which is ignored.
    pub fn update(&self, nodes: impl IntoIterator<Item = (NodeId, String)>, secret: &NodeSecret) {
        let before = self.snapshot.load();
        let peers = nodes.into_iter().filter(|(node, _)| *node != self.own_id);
        let addresses = peers
            .map(|(node, text)| {
                let unchanged = before.addresses.get(&node).filter(|address| address.text == text).cloned();
                (node, unchanged.unwrap_or_else(|| Arc::new(PeerAddress::new(text))))
            })
            .collect();
        let unchanged = before.secret.as_ref().filter(|(known, _)| known == secret).cloned();
        let secret = unchanged.unwrap_or_else(|| (secret.clone(), HopKey::new(secret)));
        self.snapshot.store(Arc::new(Snapshot { addresses, secret: Some(secret) }));
        self.updated.send_replace(());
    }

    /// Returns the address of a peer, and the value of [`HOP_HEADER`](super::HOP_HEADER) for a request to the host
    /// `label` that is forwarded to it at `now`. Waits up to 1.5 s for a node that is new to the directory.
    ///
    /// # Errors
    /// The node is not in the directory, its host name cannot be resolved, or the secret is not known yet.
    pub async fn hop_to(
        &self,
        node: &NodeId,
        label: &str,
        now: Millis,
    ) -> Result<(SocketAddr, HeaderValue), UnreachableNode> {
        let unreachable = |why: &str| UnreachableNode { node: node.clone(), why: why.to_owned() };
        let (address, key) = match self.lookup(node) {
            Some(found) => found,
            None => timeout(NEW_NODE_TIMEOUT, self.wait_for(node))
                .await
                .map_err(|_| unreachable("it is not in the cluster"))?,
        };
        let address = address.resolve().await.map_err(|why| unreachable(&why))?;
        Ok((address, key.sign(&self.own_id, node, label, now)))
    }

    /// Returns a receiver that changes with each update of the directory, which comes with each heartbeat.
    pub fn updates(&self) -> watch::Receiver<()> {
        self.updated.subscribe()
    }

    /// Returns the IP address at which each peer is reached. A peer whose host name cannot be resolved is left out.
    /// Takes at most a second.
    pub async fn peer_addresses(&self) -> HashSet<IpAddr> {
        let peers: Vec<_> = self.snapshot.load().addresses.values().cloned().collect();
        let resolved = join_all(peers.iter().map(|peer| peer.resolve())).await;
        resolved.into_iter().flatten().map(|address| address.ip().to_canonical()).collect()
    }

    fn lookup(&self, node: &NodeId) -> Option<(Arc<PeerAddress>, HopKey)> {
        let snapshot = self.snapshot.load();
        let (_, key) = snapshot.secret.as_ref()?;
        Some((snapshot.addresses.get(node)?.clone(), key.clone()))
    }

    async fn wait_for(&self, node: &NodeId) -> (Arc<PeerAddress>, HopKey) {
        let mut updated = self.updates();
        loop {
            // Marked as seen before the lookup, so that an update during the lookup wakes the wait below.
            updated.borrow_and_update();
            if let Some(found) = self.lookup(node) {
                return found;
            }
            if updated.changed().await.is_err() {
                // Cannot happen: the sender belongs to this directory.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns how a request to the host `label` came to this node. If the request has the hop header, the caller must
    /// remove it, whatever this returns.
    pub fn provenance(&self, headers: &HeaderMap, label: &str, now: Millis) -> Provenance {
        let Some(value) = hop_header::read(headers) else { return Provenance::FromOutside };
        let snapshot = self.snapshot.load();
        let signer =
            snapshot.secret.as_ref().and_then(|(_, key)| key.signer(value, &self.own_id, label, now));
        signer.map_or(Provenance::Unverified, Provenance::FromNode)
    }
}

impl PeerAddress {
    fn new(text: String) -> Self {
        let fixed = text.parse().ok().map(|address| Arc::new((Instant::now(), address)));
        Self { text, resolved: ArcSwapOption::new(fixed) }
    }

    /// Returns the address itself, or that of the host name, which is resolved again every [`RESOLUTION_TTL`].
    async fn resolve(&self) -> Result<SocketAddr, String> {
        if let Ok(address) = self.text.parse() {
            return Ok(address);
        }
        if let Some(found) = &*self.resolved.load()
            && found.0.elapsed() < RESOLUTION_TTL
        {
            return Ok(found.1);
        }
        let found = match timeout(RESOLUTION_TIMEOUT, tokio::net::lookup_host(&*self.text)).await {
            Err(_) => Err("its host name could not be resolved in time".to_owned()),
            Ok(Err(error)) => Err(format!("its host name cannot be resolved: {error}")),
            Ok(Ok(mut addresses)) => {
                addresses.next().ok_or_else(|| "its host name has no address".to_owned())
            }
        };
        match (found, &*self.resolved.load()) {
            (Ok(address), _) => {
                self.resolved.store(Some(Arc::new((Instant::now(), address))));
                Ok(address)
            }
            // An address that was right a while ago is better than none.
            (Err(_), Some(before)) => Ok(before.1),
            (Err(why), None) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HOP_HEADER;
    use crate::template::Secret;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn secret(text: &str) -> NodeSecret {
        NodeSecret::random(Secret::new(text))
    }

    /// Returns the directories of `a` and `b`, which know each other.
    fn two_nodes() -> (Directory, Directory) {
        let nodes = || [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")].map(|(n, at)| (node(n), at.to_owned()));
        let (a, b) = (Directory::alone(node("a")), Directory::alone(node("b")));
        a.update(nodes(), &secret("s"));
        b.update(nodes(), &secret("s"));
        (a, b)
    }

    fn headers_with(hop: HeaderValue) -> HeaderMap {
        HeaderMap::from_iter([(HOP_HEADER, hop)])
    }

    #[tokio::test]
    async fn a_forwarded_request_is_trusted_by_the_receiver_and_forwarded_no_further() {
        let (a, b) = two_nodes();
        let (address, hop) = a.hop_to(&node("b"), "shop-x", NOW).await.unwrap();
        assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], 2)));
        let provenance = b.provenance(&headers_with(hop.clone()), "shop-x", NOW);
        assert_eq!(provenance, Provenance::FromNode(node("a")));
        assert!(provenance.is_trusted() && !provenance.may_be_forwarded());
        // It comes back to its sender when the peer's address leads there.
        let provenance = a.provenance(&headers_with(hop), "shop-x", NOW);
        assert!(!provenance.is_trusted() && !provenance.may_be_forwarded());
    }

    #[tokio::test]
    async fn without_the_header_a_request_is_from_outside_and_with_a_forged_one_it_is_unverified() {
        let (a, _) = two_nodes();
        let outside = a.provenance(&HeaderMap::new(), "shop-x", NOW);
        assert!(outside == Provenance::FromOutside && outside.may_be_forwarded() && !outside.is_trusted());
        let forged = headers_with(HeaderValue::from_static("v1.b.28333333.00"));
        assert_eq!(a.provenance(&forged, "shop-x", NOW), Provenance::Unverified);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_for_a_new_node_waits_until_the_directory_knows_the_node() {
        let a = Directory::alone(node("a"));
        let asking = async { a.hop_to(&node("b"), "shop-x", NOW).await.map(|(address, _)| address) };
        let updating = async {
            for nodes in [vec![], vec![(node("b"), "127.0.0.1:2".to_owned())]] {
                tokio::time::sleep(NEW_NODE_TIMEOUT / 3).await;
                a.update(nodes, &secret("s"));
            }
        };
        let (found, ()) = tokio::join!(asking, updating);
        assert_eq!(found.unwrap(), SocketAddr::from(([127, 0, 0, 1], 2)));
        let begun = Instant::now();
        assert!(a.hop_to(&node("c"), "shop-x", NOW).await.is_err());
        assert!(
            begun.elapsed() >= NEW_NODE_TIMEOUT && begun.elapsed() < NEW_NODE_TIMEOUT * 2,
            "and no longer"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_alone_forwards_nothing_and_trusts_no_hop() {
        let (a, _) = two_nodes();
        let (_, hop) = a.hop_to(&node("b"), "shop-x", NOW).await.unwrap();
        let alone = Directory::alone(node("b"));
        assert!(alone.hop_to(&node("a"), "shop-x", NOW).await.is_err());
        assert_eq!(alone.provenance(&headers_with(hop), "shop-x", NOW), Provenance::Unverified);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_no_longer_listed_is_unreachable_and_a_new_secret_replaces_the_old() {
        let (a, b) = two_nodes();
        a.update([(node("b"), "localhost:3".to_owned())], &secret("t"));
        let (address, hop) = a.hop_to(&node("b"), "shop-x", NOW).await.unwrap();
        assert!(address.ip().is_loopback() && address.port() == 3, "a host name is resolved");
        assert_eq!(b.provenance(&headers_with(hop), "shop-x", NOW), Provenance::Unverified);
        a.update([], &secret("t"));
        let lost = a.hop_to(&node("b"), "shop-x", NOW).await.unwrap_err();
        assert_eq!(lost.to_string(), "cannot reach node b: it is not in the cluster");
    }
}
