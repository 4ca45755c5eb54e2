//! The other servers of the same store: what they do with our instances, and what becomes of those of one that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::end::gc;
use super::supply::hooks::Randomness;
use super::{Pool, PoolStats};
use crate::instance::Counts;
use crate::instance::{Instance, NodeId, State};
use crate::proxy::routes::{Applied, Found};
use crate::store::{Membership, NodeInfo, NodeStatus, PoolInfo, RouteChange, SUSPECT_AFTER, StoreError};
use crate::telemetry::ReleaseReason;
use crate::template::Secret;

/// Longest time to end all that a node had. There may be a hundred thousand, a page at a time.
const BURY_DEADLINE: Duration = Duration::from_secs(30);

/// Longest time that a stop waits until nothing more is given out.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// What a server knows of itself and the others.
#[derive(Debug, Default)]
pub(super) struct ClusterView {
    /// All that were on record at our last beat.
    members: arc_swap::ArcSwap<Vec<NodeStatus>>,
    /// Whether an operator wants this server to make nothing.
    draining: AtomicBool,
    /// Whether it is about to stop, which comes to the same.
    closing: AtomicBool,
    /// Held while we beat: whether this server has left for good, after which no beat may come.
    left: tokio::sync::Mutex<bool>,
}

/// A server, for the operator.
#[derive(Debug, Clone)]
pub struct NodeSummary {
    /// What it tells of itself, and since when it is silent.
    pub member: NodeStatus,
    /// Whether it has been heard lately.
    pub alive: bool,
    /// Whether it is this one.
    pub is_self: bool,
    /// Its pools.
    pub pools: Vec<NodePool>,
}

/// A pool of one server.
#[derive(Debug, Clone, Serialize)]
pub struct NodePool {
    /// The template's name.
    pub template: String,
    /// Its numbers on that server.
    #[serde(flatten)]
    pub stats: PoolStats,
}

impl Pool {
    /// Takes over a change that somebody may have made elsewhere. What this server did itself is in the table already.
    pub fn apply_change(self: &Arc<Self>, change: &RouteChange) {
        let node = match change {
            RouteChange::Set(instance) => Some(instance.node().clone()),
            RouteChange::Gone(id) => match self.routes.find(id.as_str()) {
                Found::Live(route) => Some(route.node().clone()),
                _ => None,
            },
        };
        let applied = self.routes.apply_measured(change, &self.metrics);
        if applied == Applied::Nothing || node.as_ref() != Some(&self.node) {
            return;
        }
        match change {
            // A ready one was taken back: its visitor was never told of it.
            RouteChange::Set(instance)
                if matches!(instance.life(), State::Assigned { .. } | State::Ready { .. }) => {}
            RouteChange::Set(instance) => self.take_down(instance.id().clone()),
            RouteChange::Gone(id) => self.take_down(id.clone()),
        }
        self.wake.notify_one();
    }

    /// Changes were missed, or the store was away: what runs is compared with what is on record.
    pub fn resync(&self) {
        self.repair_soon();
    }

    /// Tells the others that this server is there, and at which address; `None` when it has left for good.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn heartbeat(&self, address: &str) -> Result<Option<Membership>, StoreError> {
        let left = self.others.left.lock().await;
        if *left {
            return Ok(None);
        }
        let card = NodeInfo {
            id: self.node.clone(),
            address: address.to_owned(),
            mode: self.mode().to_owned(),
            pools: self.cards(),
        };
        let roster = self.ask(self.store.heartbeat(&card)).await?;
        let before = self.others.members.swap(Arc::new(roster.members.clone()));
        let own = roster.members.iter().find(|member| member.card.id == self.node);
        self.set_draining(own.is_some_and(|own| own.draining));
        // The first time, what runs is compared anyway.
        if roster.returned && !before.is_empty() {
            // Declared dead while it was alive, it runs what is nobody's any more.
            self.repair_soon();
        }
        Ok(Some(roster))
    }

    /// Takes over the secret that all servers of the store share, where the random texts are to come from that. The first
    /// counts: what is made of it must be the same later.
    pub fn set_shared_secret(&self, secret: &Secret) {
        if self.is_shared && self.randomness.set(Randomness::new(secret)).is_ok() {
            self.wake.notify_one();
        }
    }

    pub(super) fn knows_its_secret(&self) -> bool {
        self.randomness.get().is_some()
    }

    fn cards(&self) -> Vec<PoolInfo> {
        let draining = self.is_draining();
        let card = |template: &Arc<crate::template::Template>| PoolInfo {
            template: template.name.clone(),
            target: if draining { 0 } else { template.pool.target },
            capacity: self.keepers.get(template.name.as_str()).map_or(0, |keeper| keeper.sizes().max),
        };
        self.templates().iter().map(card).collect()
    }

    /// Whether this server is to make nothing and to let what it has finish.
    pub(super) fn is_draining(&self) -> bool {
        self.others.draining.load(Ordering::Acquire) || self.others.closing.load(Ordering::Acquire)
    }

    fn set_draining(&self, on: bool) {
        if self.others.draining.swap(on, Ordering::AcqRel) != on {
            tracing::info!(on, "this server is drained");
            if !on {
                self.keepers.refill_all();
            }
            // Retires what is ready.
            self.repair_soon();
        }
    }

    /// The other servers that have been heard lately.
    pub(super) fn living_others(&self) -> Vec<NodeStatus> {
        let members = self.others.members.load();
        let living = |member: &&NodeStatus| member.card.id != self.node && member.silent <= SUSPECT_AFTER;
        members.iter().filter(living).cloned().collect()
    }

    /// Ends what a server had that has been silent for at least `silence`. Its visitors are told. False when the store did
    /// not do it.
    pub async fn evict_node(&self, node: &NodeId, silence: Duration) -> bool {
        match self.ask_within(BURY_DEADLINE, self.store.evict_node(node, silence)).await {
            Ok(ended) => {
                tracing::warn!(%node, ended = ended.len(), "a server is gone, and with it what its visitors had");
                self.failed(&ended);
                true
            }
            Err(error) => {
                tracing::warn!(%node, %error, "what a server had that is gone is still on record");
                false
            }
        }
    }

    fn failed(&self, ended: &[Instance]) {
        for instance in ended {
            self.publish(RouteChange::Set(instance.clone()));
            self.metrics.released(instance.id().template(), ReleaseReason::Failed);
        }
    }

    /// This server is about to stop: nothing more of it is given out by the others, who could not reach it any more, while
    /// it goes on with what it was asked.
    pub async fn close(self: &Arc<Self>) {
        if !self.is_shared {
            return;
        }
        self.others.closing.store(true, Ordering::Release);
        match tokio::time::timeout(CLOSE_DEADLINE, gc::retire_unwanted(self)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what this server has ready may still be given out"),
            Err(_) => tracing::warn!("what this server has ready may still be given out: the store is slow"),
        }
    }

    /// This server stops for good, and nothing goes on without it: the others need not wait to find that out.
    pub(super) async fn leave(&self) {
        *self.others.left.lock().await = true;
        match self.ask_within(BURY_DEADLINE, self.store.evict_node(&self.node, Duration::ZERO)).await {
            Ok(ended) => self.failed(&ended),
            Err(error) => tracing::warn!(%error, "the store does not know that this server stops"),
        }
    }

    /// All servers on record with their pools, in the order of their names.
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, StoreError> {
        let mut nodes = Vec::new();
        for member in self.ask(self.store.nodes()).await? {
            let mut pools = Vec::new();
            for PoolInfo { template, target, capacity } in &member.card.pools {
                let counts = self.ask(self.store.counts(template, Some(&member.card.id))).await?;
                let Counts { warming, ready, assigned } = counts;
                let stats = PoolStats { ready, assigned, warming, target: *target, capacity: *capacity };
                pools.push(NodePool { template: template.to_string(), stats });
            }
            let (alive, is_self) = (member.silent <= SUSPECT_AFTER, member.card.id == self.node);
            nodes.push(NodeSummary { member, alive, is_self, pools });
        }
        Ok(nodes)
    }

    /// Has a server make nothing more and let what it has finish, or ends that. `Unknown` when it is not on record.
    pub async fn drain_node(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        // No beat that asked before tells afterwards how it was.
        let _no_beat = self.others.left.lock().await;
        self.ask(self.store.drain(node, on)).await?;
        if *node == self.node {
            // Another learns it with its next beat.
            self.set_draining(on);
        }
        Ok(())
    }
}
