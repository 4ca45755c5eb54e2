//! What the store knows of the nodes that share it: what each reports of itself, and for how long each has been silent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::instance::{NodeId, TemplateName};
use crate::template::Secret;

/// Longest time between two consecutive heartbeats, of any nodes, during which silence counts.
///
/// After a longer gap the store itself was unreachable, so the time before the gap counts as silence of no node.
/// Without this rule an outage of the store would make every node look dead except the first whose heartbeat arrives
/// again.
pub const MAX_HEARTBEAT_GAP: Duration = Duration::from_secs(2);

/// Silence after which a claim no longer assigns a node's instances to visitors of other nodes: the node may be dead.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// How long the store knows an evicted node of which something may remain. Without a limit the list would grow for ever
/// where no node removes anything.
pub const EVICTED_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a node reports of itself with each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node's name.
    pub id: NodeId,
    /// Where the other nodes reach it: a host and a port.
    pub address: String,
    /// The runtime of its instances.
    pub mode: String,
    /// Its pools.
    pub pools: Vec<PoolInfo>,
}

/// What a node reports of one of its pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// The template of the pool's instances.
    pub template: TemplateName,
    /// Ready instances that the node keeps.
    pub target: usize,
    /// Most instances in all states.
    pub capacity: usize,
}

/// A node as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// What the node reported with its last heartbeat.
    pub info: NodeInfo,
    /// Time since the node's last heartbeat, without the time in which the store heard no node at all.
    pub silence: Duration,
    /// Whether the node drains: it makes no instances, and no claim gets one of its instances.
    pub is_draining: bool,
}

/// The store's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// All nodes on record, the sender included, in the order of their names.
    pub nodes: Vec<NodeStatus>,
    /// The secret that all nodes of the cluster share.
    pub secret: Secret,
    /// Whether the sender was not on record: this is its first heartbeat, or it was evicted since its last one.
    pub is_new: bool,
}

/// Returns for how long a node has been silent at `now`.
///
/// `last_heartbeat` is the node's own last heartbeat and `latest` the last of any node. `since` is the start of the
/// present period in which no two consecutive heartbeats were further apart than [`MAX_HEARTBEAT_GAP`].
pub(super) fn silence(last_heartbeat: Millis, since: Millis, latest: Millis, now: Millis) -> Duration {
    if now.since(latest) > MAX_HEARTBEAT_GAP { Duration::ZERO } else { now.since(last_heartbeat.max(since)) }
}

/// Returns a new random secret for the nodes to share: 256 bits from the system's random source.
pub(super) fn random_secret() -> Secret {
    let half = || crate::instance::ClaimToken::random().0;
    Secret::new(format!("{:032x}{:032x}", half(), half()))
}
