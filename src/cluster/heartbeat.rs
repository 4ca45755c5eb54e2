//! The heartbeat task: each second it reports this node to the cluster, learns which nodes are on record, and evicts
//! those that have been silent for too long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::{Directory, LocalNode, Membership};
use crate::instance::NodeId;
use crate::store::{HeartbeatReply, NodeStatus};
use crate::telemetry::task;
use crate::template::NodeSecret;

/// Time from one heartbeat to the next.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What the heartbeat task needs.
pub struct Heartbeat {
    /// This node's membership in the cluster.
    pub membership: Arc<Membership>,
    /// This node's own pools.
    pub local: Arc<dyn LocalNode>,
    /// Where the peers are; brought up to date by each heartbeat.
    pub directory: Arc<Directory>,
    /// Where the peers reach this node: `host:port`.
    pub address: String,
    /// The secret that all nodes share; `None` selects the one that the store keeps for that.
    pub secret: Option<NodeSecret>,
    /// How long a node may be silent before it is evicted.
    pub timeout: Duration,
}

impl Heartbeat {
    /// Sends the first heartbeat, and then one each [`HEARTBEAT_INTERVAL`] in the background until this node leaves.
    /// Returns when the first has succeeded or failed.
    pub async fn run(self) {
        let mut has_failed = false;
        if self.send(&mut has_failed).await.is_some() {
            task::spawn("heartbeat", self.repeat(has_failed));
        }
    }

    async fn repeat(self, mut has_failed: bool) {
        let mut ticks = tokio::time::interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let evicted = Arc::new(Notify::new());
        let mut evictions: HashMap<NodeId, JoinHandle<()>> = HashMap::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The directory must forget an evicted node at once: it may come back at another address.
                () = evicted.notified() => {}
            }
            let Some(reply) = self.send(&mut has_failed).await else { return };
            evictions.retain(|_, eviction| !eviction.is_finished());
            let nodes = reply.into_iter().flat_map(|reply| reply.nodes);
            for silent in nodes.filter(|node| node.silence >= self.timeout) {
                let id = silent.info.id.clone();
                evictions.entry(id).or_insert_with(|| self.begin_eviction(silent, &evicted));
            }
        }
    }

    /// Evicts a node in a task of its own, which may take longer than to the next heartbeat.
    fn begin_eviction(&self, silent: NodeStatus, evicted: &Arc<Notify>) -> JoinHandle<()> {
        let (membership, local) = (self.membership.clone(), self.local.clone());
        let (evicted, timeout) = (evicted.clone(), self.timeout);
        task::spawn("evict node", async move {
            if membership.evict_node(&silent.info.id, timeout, &*local).await {
                evicted.notify_one();
            }
        })
    }

    /// Sends one heartbeat. Returns `None` once this node has left, and `Some(None)` when the heartbeat failed.
    /// `has_failed` is whether the heartbeat before failed, and is updated.
    async fn send(&self, has_failed: &mut bool) -> Option<Option<HeartbeatReply>> {
        match self.membership.heartbeat(&self.address, &*self.local).await {
            Ok(None) => None,
            Ok(Some(reply)) => {
                let addresses =
                    reply.nodes.iter().map(|node| (node.info.id.clone(), node.info.address.clone()));
                let secret = self.secret.clone();
                let secret = secret.unwrap_or_else(|| NodeSecret::random(reply.secret.clone()));
                self.directory.update(addresses, &secret);
                self.local.set_shared_secret(&secret);
                if std::mem::take(has_failed) {
                    self.local.garbage_collect_soon();
                }
                Some(Some(reply))
            }
            Err(error) => {
                if !std::mem::replace(has_failed, true) {
                    tracing::warn!(%error, "heartbeat failed");
                }
                Some(None)
            }
        }
    }
}
