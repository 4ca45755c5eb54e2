//! How many instances all nodes together are to have of a template: what is planned once for the cluster, and done by
//! the workers of any node. Pure, but for the observation.

use crate::instance::{NodeId, StateCounts};
use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::store::{NodeStatus, StoreError};
use crate::template::PoolSizes;

/// The pools of one template on all living nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct ClusterPool {
    /// Living instances of all nodes by state.
    pub(super) counts: StateCounts,
    /// Ready instances to keep: the sum over all living nodes that do not drain.
    pub(super) target: usize,
    /// Most instances of these nodes in all states.
    pub(super) capacity: usize,
    /// Whether this node plans for all: it has the least id of these nodes. Two that plan at the same time, because they
    /// know of different nodes, do no harm: a worker asks again whether an instance is wanted.
    pub(super) is_planner: bool,
}

impl ClusterPool {
    /// Reads the counts of all nodes, and combines them with what the heartbeats said.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer in time.
    pub(in crate::pool) async fn observe(supply: &Supply, pool: &TemplatePool) -> Result<Self, StoreError> {
        let shared = &supply.shared;
        let name = pool.template().name.clone();
        let counts = shared.store.counts(&name, None).await?;
        let own = (!shared.is_draining() && pool.is_configured()).then(|| pool.sizes());
        Ok(Self::of(counts, &shared.node, own, name.as_str(), &shared.membership.living_peers()))
    }

    /// Combines the counts with the own sizes, which are `None` where this node makes no instances, and with the peers'.
    fn of(
        counts: StateCounts,
        own_id: &NodeId,
        own: Option<PoolSizes>,
        template: &str,
        peers: &[NodeStatus],
    ) -> Self {
        let mut all = Self {
            counts,
            target: own.map_or(0, |sizes| sizes.target),
            capacity: own.map_or(0, |sizes| sizes.max),
            is_planner: own.is_some(),
        };
        for peer in peers.iter().filter(|peer| !peer.is_draining) {
            let Some(pool) = peer.info.pools.iter().find(|pool| pool.template.as_str() == template) else {
                continue;
            };
            all.target += pool.target;
            all.capacity = all.capacity.saturating_add(pool.capacity);
            all.is_planner &= *own_id < peer.info.id;
        }
        all
    }

    /// Returns how many instances are ready or warming.
    fn coming(&self) -> usize {
        self.counts.ready + self.counts.warming
    }

    /// Returns whether one more instance is wanted anywhere.
    pub(super) fn wants_one(&self) -> bool {
        self.coming() < self.target && self.coming() + self.counts.assigned < self.capacity
    }

    /// Returns the target of a node's own plan. While the queue works, its jobs fill the pools, and the node itself makes
    /// only what its visitors wait for. Without the queue each node fills its own pool, as far as the cluster misses
    /// instances.
    pub(super) fn local_target(&self, own: StateCounts, sizes: &PoolSizes, has_queue: bool) -> usize {
        if has_queue {
            return own.ready;
        }
        let missing = self.target.saturating_sub(self.coming());
        sizes.target.min(own.ready + own.warming + missing)
    }

    /// Returns how many ready instances a node keeps that has `own_ready`: more than its own target, as long as the
    /// cluster has no more than its target.
    pub(in crate::pool) fn kept(&self, own_ready: usize, own_target: usize) -> usize {
        let excess = self.counts.ready.saturating_sub(self.target);
        own_target.max(own_ready.saturating_sub(excess))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::instance::TemplateName;
    use crate::store::{NodeInfo, PoolInfo};

    fn peer(id: &str, target: usize, is_draining: bool) -> NodeStatus {
        let template = TemplateName::new("shop").unwrap();
        NodeStatus {
            info: NodeInfo {
                id: NodeId::parse(id).unwrap(),
                address: String::new(),
                mode: String::new(),
                pools: vec![PoolInfo { template, target, capacity: 20 }],
            },
            silence: Duration::ZERO,
            is_draining,
        }
    }

    fn sizes() -> PoolSizes {
        PoolSizes {
            target: 10,
            min: 0,
            max: 20,
            limited_by_memory: false,
            replenish_threshold: 0.5,
            replenish_interval: Duration::from_secs(10),
            concurrency: 4,
            max_idle_age: None,
        }
    }

    fn of(ready: usize, warming: usize, peers: &[NodeStatus]) -> ClusterPool {
        let counts = StateCounts { warming, ready, assigned: 0 };
        ClusterPool::of(counts, &NodeId::parse("b").unwrap(), Some(sizes()), "shop", peers)
    }

    #[test]
    fn the_targets_of_the_nodes_that_do_not_drain_are_summed_and_the_least_id_plans() {
        let two = of(0, 0, &[peer("c", 5, false), peer("a", 7, true)]);
        assert_eq!((two.target, two.capacity, two.is_planner), (15, 40, true));
        assert!(!of(0, 0, &[peer("a", 7, false)]).is_planner);
        let other =
            ClusterPool::of(two.counts, &NodeId::parse("a").unwrap(), None, "shop", &[peer("b", 1, false)]);
        assert_eq!((other.target, other.is_planner), (1, false), "a node that drains plans nothing");
    }

    #[test]
    fn an_instance_is_wanted_until_as_many_are_coming_as_the_target() {
        assert!(of(8, 1, &[]).wants_one());
        assert!(!of(8, 2, &[]).wants_one());
        let full = ClusterPool { capacity: 9, ..of(8, 1, &[]) };
        assert!(!full.wants_one());
    }

    #[test]
    fn without_the_queue_a_node_fills_its_pool_as_far_as_the_cluster_misses_instances() {
        let own = |ready, warming| StateCounts { warming, ready, assigned: 0 };
        assert_eq!(of(3, 0, &[]).local_target(own(3, 0), &sizes(), true), 3);
        assert_eq!(of(3, 0, &[]).local_target(own(3, 0), &sizes(), false), 10);
        let two = of(18, 0, &[peer("c", 10, false)]);
        assert_eq!(two.local_target(own(4, 0), &sizes(), false), 6);
        assert_eq!(two.local_target(own(14, 0), &sizes(), false), 10);
    }

    #[test]
    fn a_node_keeps_more_than_its_target_while_the_cluster_has_no_more_than_its_own() {
        let two = of(20, 0, &[peer("c", 10, false)]);
        assert_eq!(two.kept(14, 10), 14);
        let more = of(23, 0, &[peer("c", 10, false)]);
        assert_eq!((more.kept(14, 10), more.kept(11, 10), more.kept(9, 10)), (11, 10, 10));
    }
}
