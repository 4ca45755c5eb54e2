//! Where each server is reached, and the secret that they share: read on every request that is passed on, without a
//! lock.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::hop_header;
use super::hop_header::{HopKey, Provenance};
use crate::clock::Millis;
use crate::instance::NodeId;
use crate::template::Secret;

/// How long the address of a host's name is believed.
const RESOLVED_FOR: Duration = Duration::from_secs(10);
/// Longest time to find out the address of a host's name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time to wait for word of a server that is not known yet. What it made may be handed out before the next update
/// tells of it, which comes each second.
const NEWS_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A server that nothing can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the way to {node} is not known: {why}")]
pub struct Unreachable {
    /// Which one.
    pub node: NodeId,
    /// What is missing.
    pub why: String,
}

/// See the module. [`Directory::update`] replaces all that it knows at once.
#[derive(Debug)]
pub struct Directory {
    own: NodeId,
    known: ArcSwap<Snapshot>,
    /// Told of each update.
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Snapshot {
    /// Of every server but this one.
    places: HashMap<NodeId, Arc<Place>>,
    /// `None` until it is told: then nothing is passed on, and no hop is believed.
    secret: Option<(Secret, HopKey)>,
}

/// Where a server is reached.
#[derive(Debug)]
struct Place {
    text: String,
    /// Of a host's name: what was found, and when.
    resolved: ArcSwapOption<(Instant, SocketAddr)>,
}

impl Directory {
    /// The directory of a server that knows of no other, as with the embedded store, and until the first update.
    pub fn alone(own: NodeId) -> Self {
        Self { own, known: ArcSwap::default(), news: watch::Sender::new(()) }
    }

    /// This server.
    pub fn own(&self) -> &NodeId {
        &self.own
    }

    /// Takes over who is there, each with its `host:port`, and the secret that all share. Who is not named is no longer
    /// there; this server itself may be named or not.
    pub fn update(&self, members: impl IntoIterator<Item = (NodeId, String)>, secret: &Secret) {
        let before = self.known.load();
        let others = members.into_iter().filter(|(node, _)| *node != self.own);
        let places = others
            .map(|(node, text)| {
                let same = before.places.get(&node).filter(|place| place.text == text).cloned();
                (node, same.unwrap_or_else(|| Arc::new(Place::new(text))))
            })
            .collect();
        let same = before.secret.as_ref().filter(|(known, _)| known == secret).cloned();
        let secret = same.unwrap_or_else(|| (secret.clone(), HopKey::new(secret.reveal())));
        self.known.store(Arc::new(Snapshot { places, secret: Some(secret) }));
        self.news.send_replace(());
    }

    /// Where another server is reached, and the value of [`hop_header::HOP`] for a request to the host `label` that goes there
    /// at `now`. Waits for a moment for word of a server that is new.
    ///
    /// # Errors
    /// It is not known where it is.
    pub async fn way_to(
        &self,
        node: &NodeId,
        label: &str,
        now: Millis,
    ) -> Result<(SocketAddr, HeaderValue), Unreachable> {
        let unreachable = |why: &str| Unreachable { node: node.clone(), why: why.to_owned() };
        let (place, key) = match self.place(node) {
            Some(found) => found,
            None => timeout(NEWS_TIMEOUT, self.news_of(node))
                .await
                .map_err(|_| unreachable("no such server is there"))?,
        };
        let address = place.address().await.map_err(|why| unreachable(&why))?;
        Ok((address, key.sign(&self.own, node, label, now)))
    }

    fn place(&self, node: &NodeId) -> Option<(Arc<Place>, HopKey)> {
        let known = self.known.load();
        let (_, key) = known.secret.as_ref()?;
        Some((known.places.get(node)?.clone(), key.clone()))
    }

    async fn news_of(&self, node: &NodeId) -> (Arc<Place>, HopKey) {
        let mut news = self.news.subscribe();
        loop {
            // Looked at only after it was subscribed to, and seen as old from here on.
            news.borrow_and_update();
            if let Some(found) = self.place(node) {
                return found;
            }
            if news.changed().await.is_err() {
                // The sender is this directory's own.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How a request to the host `label` came here. The field has to be taken off it then, whatever it is worth.
    pub fn arrival(&self, headers: &HeaderMap, label: &str, now: Millis) -> Provenance {
        let Some(value) = hop_header::read(headers) else { return Provenance::FromOutside };
        let known = self.known.load();
        let signer = known.secret.as_ref().and_then(|(_, key)| key.signer(value, &self.own, label, now));
        signer.map_or(Provenance::Unproved, Provenance::FromNode)
    }
}

impl Place {
    fn new(text: String) -> Self {
        let fixed = text.parse().ok().map(|address| Arc::new((Instant::now(), address)));
        Self { text, resolved: ArcSwapOption::new(fixed) }
    }

    /// The address itself, or that of the name, asked for anew every now and then.
    async fn address(&self) -> Result<SocketAddr, String> {
        if let Ok(address) = self.text.parse() {
            return Ok(address);
        }
        if let Some(found) = &*self.resolved.load()
            && found.0.elapsed() < RESOLVED_FOR
        {
            return Ok(found.1);
        }
        let found = match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&*self.text)).await {
            Err(_) => Err("its name could not be resolved in time".to_owned()),
            Ok(Err(error)) => Err(format!("its name cannot be resolved: {error}")),
            Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| "its name has no address".to_owned()),
        };
        match (found, &*self.resolved.load()) {
            (Ok(address), _) => {
                self.resolved.store(Some(Arc::new((Instant::now(), address))));
                Ok(address)
            }
            // Better what was true a while ago than nothing.
            (Err(_), Some(before)) => Ok(before.1),
            (Err(why), None) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HOP;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    /// The directories of `a` and `b`, which know each other.
    fn two() -> (Directory, Directory) {
        let members = || [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")].map(|(n, at)| (node(n), at.to_owned()));
        let (a, b) = (Directory::alone(node("a")), Directory::alone(node("b")));
        a.update(members(), &Secret::new("s"));
        b.update(members(), &Secret::new("s"));
        (a, b)
    }

    fn with(hop: HeaderValue) -> HeaderMap {
        HeaderMap::from_iter([(HOP, hop)])
    }

    #[tokio::test]
    async fn a_request_that_one_passes_on_is_believed_by_the_other_and_passed_on_no_further() {
        let (a, b) = two();
        let (address, hop) = a.way_to(&node("b"), "shop-x", NOW).await.unwrap();
        assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], 2)));
        let arrival = b.arrival(&with(hop.clone()), "shop-x", NOW);
        assert_eq!(arrival, Provenance::FromNode(node("a")));
        assert!(arrival.is_believed() && !arrival.may_be_passed_on());
        // It comes back to its sender when another's address leads there.
        let arrival = a.arrival(&with(hop), "shop-x", NOW);
        assert!(!arrival.is_believed() && !arrival.may_be_passed_on());
    }

    #[tokio::test]
    async fn without_the_field_a_request_is_from_outside_and_with_a_forged_one_it_is_worth_less() {
        let (a, _) = two();
        let outside = a.arrival(&HeaderMap::new(), "shop-x", NOW);
        assert!(outside == Provenance::FromOutside && outside.may_be_passed_on() && !outside.is_believed());
        let forged = with(HeaderValue::from_static("v1.b.28333333.00"));
        assert_eq!(a.arrival(&forged, "shop-x", NOW), Provenance::Unproved);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_for_a_new_server_waits_for_word_of_it() {
        let a = Directory::alone(node("a"));
        let asked = async { a.way_to(&node("b"), "shop-x", NOW).await.map(|(address, _)| address) };
        let told = async {
            for members in [vec![], vec![(node("b"), "127.0.0.1:2".to_owned())]] {
                tokio::time::sleep(NEWS_TIMEOUT / 3).await;
                a.update(members, &Secret::new("s"));
            }
        };
        let (found, ()) = tokio::join!(asked, told);
        assert_eq!(found.unwrap(), SocketAddr::from(([127, 0, 0, 1], 2)));
        let begun = Instant::now();
        assert!(a.way_to(&node("c"), "shop-x", NOW).await.is_err());
        assert!(begun.elapsed() >= NEWS_TIMEOUT && begun.elapsed() < NEWS_TIMEOUT * 2, "and no longer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_alone_passes_nothing_on_and_believes_no_hop() {
        let (a, _) = two();
        let (_, hop) = a.way_to(&node("b"), "shop-x", NOW).await.unwrap();
        let alone = Directory::alone(node("b"));
        assert!(alone.way_to(&node("a"), "shop-x", NOW).await.is_err());
        assert_eq!(alone.arrival(&with(hop), "shop-x", NOW), Provenance::Unproved);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_named_any_more_is_not_there_and_a_new_secret_replaces_the_old() {
        let (a, b) = two();
        a.update([(node("b"), "localhost:3".to_owned())], &Secret::new("t"));
        let (address, hop) = a.way_to(&node("b"), "shop-x", NOW).await.unwrap();
        assert!(address.ip().is_loopback() && address.port() == 3, "a name leads to its address");
        assert_eq!(b.arrival(&with(hop), "shop-x", NOW), Provenance::Unproved);
        a.update([], &Secret::new("t"));
        let lost = a.way_to(&node("b"), "shop-x", NOW).await.unwrap_err();
        assert_eq!(lost.to_string(), "the way to b is not known: no such server is there");
    }
}
