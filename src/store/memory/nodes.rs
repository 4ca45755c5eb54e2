//! The nodes on record. There may be one only, and tests of the rules have more.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::NodeId;
use crate::store::nodes::{fresh_secret, silence};
use crate::store::{MAX_HEARTBEAT_GAP, Membership, NodeInfo, NodeStatus, SUSPECT_AFTER};
use crate::template::Secret;

struct Entry {
    card: NodeInfo,
    beat: Millis,
    draining: bool,
}

pub(super) struct Nodes {
    entries: BTreeMap<NodeId, Entry>,
    /// From when on there was always a beat within [`PULSE`].
    since: Millis,
    secret: Secret,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), since: Millis(0), secret: fresh_secret() }
    }

    fn latest(&self) -> Option<Millis> {
        self.entries.values().map(|entry| entry.beat).max()
    }

    pub(super) fn beat(&mut self, card: &NodeInfo, now: Millis) -> Membership {
        if self.latest().is_none_or(|latest| now.since(latest) > MAX_HEARTBEAT_GAP) {
            self.since = now;
        }
        let draining = self.entries.get(&card.id).map(|entry| entry.draining);
        let entry = Entry { card: card.clone(), beat: now, draining: draining.unwrap_or(false) };
        self.entries.insert(card.id.clone(), entry);
        Membership { members: self.all(now), secret: self.secret.clone(), returned: draining.is_none() }
    }

    pub(super) fn all(&self, now: Millis) -> Vec<NodeStatus> {
        let member = |entry: &Entry| NodeStatus {
            card: entry.card.clone(),
            silent: self.silence_of(entry, now),
            draining: entry.draining,
        };
        self.entries.values().map(member).collect()
    }

    fn silence_of(&self, entry: &Entry, now: Millis) -> Duration {
        silence(entry.beat, self.since, self.latest().unwrap_or(entry.beat), now)
    }

    /// For how long a node has been silent; `None` when it is not on record.
    pub(super) fn silence(&self, node: &NodeId, now: Millis) -> Option<Duration> {
        self.entries.get(node).map(|entry| self.silence_of(entry, now))
    }

    /// False when it is not on record.
    pub(super) fn drain(&mut self, node: &NodeId, on: bool) -> bool {
        self.entries.get_mut(node).map(|entry| entry.draining = on).is_some()
    }

    pub(super) fn is_draining(&self, node: &NodeId) -> bool {
        self.entries.get(node).is_some_and(|entry| entry.draining)
    }

    /// Whether visitors may be sent to what another node has ready.
    pub(super) fn is_fit(&self, node: &NodeId, now: Millis) -> bool {
        self.entries
            .get(node)
            .is_none_or(|entry| !entry.draining && self.silence_of(entry, now) <= SUSPECT_AFTER)
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.entries.remove(node);
    }
}
