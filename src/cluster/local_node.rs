//! What the cluster needs of this node's own pools.

use crate::instance::Instance;
use crate::store::PoolInfo;
use crate::template::NodeSecret;

/// The pools of this node, as the cluster uses them.
///
/// No method waits: each notes what is to be done and returns.
pub trait LocalNode: Send + Sync + 'static {
    /// Returns the name of the runtime that runs this node's instances.
    fn runtime_name(&self) -> &'static str;

    /// Returns what the heartbeat reports of each pool. While this node drains, every target is 0.
    fn pool_infos(&self) -> Vec<PoolInfo>;

    /// Takes over the secret that all nodes of the cluster share. Only the first call has an effect: what was derived
    /// from the secret must not change.
    fn set_shared_secret(&self, secret: &NodeSecret);

    /// Reacts to a change of [`Membership::is_draining`](super::Membership::is_draining): retires the ready instances,
    /// or fills the pools again.
    fn draining_changed(&self, is_draining: bool);

    /// Has the instances that run compared with those on record soon: changes of the store were missed, or another node
    /// evicted this one.
    fn garbage_collect_soon(&self);

    /// Publishes the end of assigned instances whose node was evicted, so that the proxy answers their visitors.
    fn publish_evicted(&self, ended: &[Instance]);
}
