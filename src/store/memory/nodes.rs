//! The nodes on record. There may be one only, and tests of the rules have more.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::NodeId;
use crate::store::nodes::{fresh_secret, silence};
use crate::store::{Member, NodeCard, PULSE, Roster, UNHEARD};
use crate::template::Secret;

struct Entry {
    card: NodeCard,
    beat: Millis,
    draining: bool,
}

pub(super) struct Members {
    entries: BTreeMap<NodeId, Entry>,
    /// From when on there was always a beat within [`PULSE`].
    since: Millis,
    secret: Secret,
}

impl Members {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), since: Millis(0), secret: fresh_secret() }
    }

    fn latest(&self) -> Option<Millis> {
        self.entries.values().map(|entry| entry.beat).max()
    }

    pub(super) fn beat(&mut self, card: &NodeCard, now: Millis) -> Roster {
        if self.latest().is_none_or(|latest| now.since(latest) > PULSE) {
            self.since = now;
        }
        let draining = self.entries.get(&card.id).map(|entry| entry.draining);
        let entry = Entry { card: card.clone(), beat: now, draining: draining.unwrap_or(false) };
        self.entries.insert(card.id.clone(), entry);
        Roster { members: self.all(now), secret: self.secret.clone(), returned: draining.is_none() }
    }

    pub(super) fn all(&self, now: Millis) -> Vec<Member> {
        let member = |entry: &Entry| Member {
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
        self.entries.get(node).is_none_or(|entry| !entry.draining && self.silence_of(entry, now) <= UNHEARD)
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.entries.remove(node);
    }
}
