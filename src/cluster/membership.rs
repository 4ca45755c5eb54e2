//! The membership of this node in the cluster: what it knows of the other nodes, and the transitions of nodes.
//!
//! A node joins with its first heartbeat. It is *drained* while an operator wants it to make no instances, and
//! *evicted* when it has been silent for too long: all its instances end. A node that stops for good *leaves*, which is
//! an eviction of itself without any silence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{Mutex, watch};

use super::LocalNode;
use crate::instance::NodeId;
use crate::store::{HeartbeatReply, NodeInfo, NodeStatus, PoolInfo, SUSPECT_AFTER, Store, StoreError};

/// What this node knows of the cluster, and its own place in it.
pub struct Membership {
    store: Arc<dyn Store>,
    own_id: NodeId,
    /// All nodes on record at this node's last heartbeat.
    nodes: ArcSwap<Vec<NodeStatus>>,
    /// The hosts of all nodes on record.
    hosts: watch::Sender<BTreeSet<String>>,
    /// Whether an operator drains this node.
    is_drained: AtomicBool,
    /// Whether this node is about to stop, which drains it too.
    is_shutting_down: AtomicBool,
    /// Whether this node has left. The lock is held while a heartbeat is in progress: a heartbeat that arrived after
    /// the eviction would put this node on record again.
    has_left: Mutex<bool>,
}

/// One node of the cluster, for the operator.
#[derive(Debug, Clone)]
pub struct NodeSummary {
    /// What the node reported of itself, and for how long it has been silent.
    pub status: NodeStatus,
    /// Whether it was heard within [`SUSPECT_AFTER`].
    pub is_alive: bool,
    /// Whether it is this node.
    pub is_self: bool,
    /// Its pools.
    pub pools: Vec<NodePool>,
}

/// One pool of one node. The field names are part of the API.
#[derive(Debug, Clone, Serialize)]
pub struct NodePool {
    /// The template's name.
    pub template: String,
    /// Instances that no visitor has yet.
    pub ready: usize,
    /// Instances that visitors have.
    pub assigned: usize,
    /// Instances that are being made.
    pub warming: usize,
    /// Ready instances that the node keeps.
    pub target: usize,
    /// Most instances in all states.
    pub capacity: usize,
}

impl Membership {
    /// Creates the membership of the node `own_id`, which has sent no heartbeat yet and knows of no peer.
    pub fn new(store: Arc<dyn Store>, own_id: NodeId) -> Self {
        Self {
            store,
            own_id,
            nodes: ArcSwap::default(),
            hosts: watch::Sender::default(),
            is_drained: AtomicBool::new(false),
            is_shutting_down: AtomicBool::new(false),
            has_left: Mutex::new(false),
        }
    }

    /// Sends a heartbeat: reports this node, reached at `address` (`host:port`), and learns which nodes are on record.
    /// Returns `None` once this node has left.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer in time.
    pub async fn heartbeat(
        &self,
        address: &str,
        local: &dyn LocalNode,
    ) -> Result<Option<HeartbeatReply>, StoreError> {
        let has_left = self.has_left.lock().await;
        if *has_left {
            return Ok(None);
        }
        let info = NodeInfo {
            id: self.own_id.clone(),
            address: address.to_owned(),
            mode: local.runtime_name().to_owned(),
            pools: local.pool_infos(),
        };
        let reply = self.store.heartbeat(&info).await?;
        let before = self.nodes.swap(Arc::new(reply.nodes.clone()));
        self.note_hosts(&reply.nodes);
        let own = reply.nodes.iter().find(|node| node.info.id == self.own_id);
        self.set_drained(own.is_some_and(|own| own.is_draining), local);
        // After the first heartbeat the pools are compared anyway.
        if reply.is_new && !before.is_empty() {
            // This node was evicted while it was alive: it runs instances that are no longer on record.
            local.garbage_collect_soon();
        }
        Ok(Some(reply))
    }

    /// Returns whether this node makes no instances and lets those that it has finish: an operator drains it, or it is
    /// about to stop.
    pub fn is_draining(&self) -> bool {
        self.is_drained.load(Ordering::Acquire) || self.is_shutting_down.load(Ordering::Acquire)
    }

    /// Drains this node for good: it is about to stop.
    pub fn begin_shutdown(&self) {
        self.is_shutting_down.store(true, Ordering::Release);
    }

    /// Returns the hosts at which the nodes on record are reached, this node included, as names or addresses.
    pub fn node_hosts(&self) -> watch::Receiver<BTreeSet<String>> {
        self.hosts.subscribe()
    }

    fn note_hosts(&self, nodes: &[NodeStatus]) {
        let host = |node: &NodeStatus| Some(node.info.address.rsplit_once(':')?.0.to_owned());
        let hosts: BTreeSet<String> = nodes.iter().filter_map(host).collect();
        self.hosts.send_if_modified(|known| {
            let is_new = *known != hosts;
            *known = hosts;
            is_new
        });
    }

    /// Returns the peers that were heard within [`SUSPECT_AFTER`].
    pub fn living_peers(&self) -> Vec<NodeStatus> {
        self.nodes.load().iter().filter(|node| self.is_living_peer(node)).cloned().collect()
    }

    /// Returns whether a peer that was heard within [`SUSPECT_AFTER`] has a pool of the template `name`.
    pub fn has_peer_with_template(&self, name: &str) -> bool {
        self.nodes
            .load()
            .iter()
            .filter(|node| self.is_living_peer(node))
            .any(|node| node.info.pools.iter().any(|pool| pool.template.as_str() == name))
    }

    fn is_living_peer(&self, node: &NodeStatus) -> bool {
        node.info.id != self.own_id && node.silence <= SUSPECT_AFTER
    }

    /// Ends all instances of a node that has been silent for at least `silence`, and publishes their end. Returns
    /// whether the store did it.
    pub async fn evict_node(&self, node: &NodeId, silence: Duration, local: &dyn LocalNode) -> bool {
        match self.store.evict_node(node, silence).await {
            Ok(ended) => {
                tracing::warn!(%node, ended = ended.len(), "dead node evicted");
                local.publish_evicted(&ended);
                true
            }
            Err(error) => {
                tracing::warn!(%node, %error, "failed to remove dead node's instances");
                false
            }
        }
    }

    /// Sends no heartbeat any more: another process reports this node.
    pub async fn cease(&self) {
        *self.has_left.lock().await = true;
    }

    /// Takes this node off the record, with all its instances: it stops for good, and no instance of it continues. So
    /// the peers need not wait until they notice its silence. No heartbeat follows.
    pub async fn leave(&self, local: &dyn LocalNode) {
        *self.has_left.lock().await = true;
        match self.store.evict_node(&self.own_id, Duration::ZERO).await {
            Ok(ended) => local.publish_evicted(&ended),
            Err(error) => tracing::warn!(%error, "failed to leave cluster"),
        }
    }

    /// Returns all nodes on record with their pools, in the order of their names.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer in time.
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, StoreError> {
        let mut nodes = Vec::new();
        for status in self.store.nodes().await? {
            let mut pools = Vec::new();
            for PoolInfo { template, target, capacity } in &status.info.pools {
                let counts = self.store.counts(template, Some(&status.info.id)).await?;
                pools.push(NodePool {
                    template: template.to_string(),
                    ready: counts.ready,
                    assigned: counts.assigned,
                    warming: counts.warming,
                    target: *target,
                    capacity: *capacity,
                });
            }
            let (is_alive, is_self) = (status.silence <= SUSPECT_AFTER, status.info.id == self.own_id);
            nodes.push(NodeSummary { status, is_alive, is_self, pools });
        }
        Ok(nodes)
    }

    /// Drains a node, or ends its draining. A peer learns that with its next heartbeat.
    ///
    /// # Errors
    /// `Unknown` when the node is not on record; `Unavailable` when the store does not answer in time.
    pub async fn drain_node(
        &self,
        node: &NodeId,
        is_drained: bool,
        local: &dyn LocalNode,
    ) -> Result<(), StoreError> {
        // Else the reply to a heartbeat that is in progress could undo what is set here.
        let _no_heartbeat = self.has_left.lock().await;
        self.store.drain(node, is_drained).await?;
        if *node == self.own_id {
            self.set_drained(is_drained, local);
        }
        Ok(())
    }

    fn set_drained(&self, is_drained: bool, local: &dyn LocalNode) {
        if self.is_drained.swap(is_drained, Ordering::AcqRel) != is_drained {
            tracing::info!(is_drained, "node draining changed");
            local.draining_changed(is_drained);
        }
    }
}
