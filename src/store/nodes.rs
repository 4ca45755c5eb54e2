//! Who shares the store: the servers as they tell of themselves, and since when each has been silent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::instance::{NodeId, TemplateName};
use crate::template::Secret;

/// Longest time between two beats of whatever nodes. After a longer one it was the store that was away, and nobody's
/// silence counts from before.
pub const MAX_HEARTBEAT_GAP: Duration = Duration::from_secs(2);

/// From a node that has been silent for longer nothing is given out any more: its visitors might find nobody there.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// What a server tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub id: NodeId,
    /// Where the others reach it: a host and a port.
    pub address: String,
    /// What runs its instances.
    pub mode: String,
    /// What it keeps.
    pub pools: Vec<PoolInfo>,
}

/// What a server keeps of one template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// Of which.
    pub template: TemplateName,
    /// Ready instances wanted.
    pub target: usize,
    /// Most instances in all states.
    pub capacity: usize,
}

/// A node as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// What it told last.
    pub card: NodeInfo,
    /// Time since its last beat, or since somebody talks to the store again after nobody did.
    pub silent: Duration,
    /// Whether it is to make no instances, and none of its are given out.
    pub draining: bool,
}

/// The answer to a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// All nodes on record, the one that beat too, in the order of their names.
    pub members: Vec<NodeStatus>,
    /// What all of them know, and nobody else.
    pub secret: Secret,
    /// Whether the node was not on record: this is its first beat, or it was declared dead since the last one.
    pub returned: bool,
}

/// For how long a node has been silent at `now`: `beat` is its last beat, `latest` the last of whatever node, and `since`
/// the beginning of the time in which there was always one within [`PULSE`].
pub(super) fn silence(beat: Millis, since: Millis, latest: Millis, now: Millis) -> Duration {
    if now.since(latest) > MAX_HEARTBEAT_GAP { Duration::ZERO } else { now.since(beat.max(since)) }
}

/// A secret that nobody knows yet.
pub(super) fn fresh_secret() -> Secret {
    // 256 random bits of the system's.
    let half = || crate::instance::ClaimToken::random().0;
    Secret::new(format!("{:032x}{:032x}", half(), half()))
}
