//! The nodes on record. A server with this store is the only one; tests of the rules record more.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::NodeId;
use crate::store::nodes::{random_secret, silence};
use crate::store::{
    EVICTED_RETENTION, HeartbeatReply, MAX_HEARTBEAT_GAP, NodeInfo, NodeStatus, SUSPECT_AFTER,
};
use crate::template::Secret;

struct NodeRecord {
    info: NodeInfo,
    last_heartbeat: Millis,
    is_draining: bool,
}

/// The nodes on record, and the secret that they share.
pub(super) struct Nodes {
    records: BTreeMap<NodeId, NodeRecord>,
    /// When each node that was evicted and has not come back was evicted.
    evicted: BTreeMap<NodeId, Millis>,
    /// Start of the present period without a gap longer than [`MAX_HEARTBEAT_GAP`] between two heartbeats.
    since: Millis,
    secret: Secret,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { records: BTreeMap::new(), evicted: BTreeMap::new(), since: Millis(0), secret: random_secret() }
    }

    fn latest_heartbeat(&self) -> Option<Millis> {
        self.records.values().map(|record| record.last_heartbeat).max()
    }

    /// Records a heartbeat, and returns all nodes.
    pub(super) fn record_heartbeat(&mut self, info: &NodeInfo, now: Millis) -> HeartbeatReply {
        if self.latest_heartbeat().is_none_or(|latest| now.since(latest) > MAX_HEARTBEAT_GAP) {
            self.since = now;
        }
        let was_draining = self.records.get(&info.id).map(|record| record.is_draining);
        let record = NodeRecord {
            info: info.clone(),
            last_heartbeat: now,
            is_draining: was_draining.unwrap_or(false),
        };
        self.records.insert(info.id.clone(), record);
        self.evicted.remove(&info.id);
        HeartbeatReply { nodes: self.all(now), secret: self.secret.clone(), is_new: was_draining.is_none() }
    }

    /// Returns all nodes, in the order of their names.
    pub(super) fn all(&self, now: Millis) -> Vec<NodeStatus> {
        let status = |record: &NodeRecord| NodeStatus {
            info: record.info.clone(),
            silence: self.silence_of(record, now),
            is_draining: record.is_draining,
        };
        self.records.values().map(status).collect()
    }

    fn silence_of(&self, record: &NodeRecord, now: Millis) -> Duration {
        let latest = self.latest_heartbeat().unwrap_or(record.last_heartbeat);
        silence(record.last_heartbeat, self.since, latest, now)
    }

    /// Returns for how long a node has been silent; `None` when it is not on record.
    pub(super) fn silence(&self, node: &NodeId, now: Millis) -> Option<Duration> {
        self.records.get(node).map(|record| self.silence_of(record, now))
    }

    /// Sets or clears the mark that a node drains. Returns false when the node is not on record.
    pub(super) fn set_draining(&mut self, node: &NodeId, on: bool) -> bool {
        self.records.get_mut(node).map(|record| record.is_draining = on).is_some()
    }

    pub(super) fn is_draining(&self, node: &NodeId) -> bool {
        self.records.get(node).is_some_and(|record| record.is_draining)
    }

    /// Whether a claim from another node may get one of this node's ready instances.
    pub(super) fn is_claimable(&self, node: &NodeId, now: Millis) -> bool {
        self.records
            .get(node)
            .is_none_or(|record| !record.is_draining && self.silence_of(record, now) <= SUSPECT_AFTER)
    }

    /// Takes an evicted node off the record.
    pub(super) fn evict(&mut self, node: &NodeId, now: Millis) {
        self.records.remove(node);
        self.evicted.retain(|_, at| now.since(*at) <= EVICTED_RETENTION);
        self.evicted.insert(node.clone(), now);
    }

    /// Returns the nodes that were evicted and have not come back, in the order of their names.
    pub(super) fn evicted(&self) -> Vec<NodeId> {
        self.evicted.keys().cloned().collect()
    }

    /// Takes a node off the list of evicted ones.
    pub(super) fn forget_evicted(&mut self, node: &NodeId) {
        self.evicted.remove(node);
    }
}
