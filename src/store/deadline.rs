//! A store behind a network, each of whose calls has a deadline. A store in memory needs none: it answers at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Claim, Claimed, Cursor, HeartbeatReply, NodeInfo, NodeStatus, RouteEvents, Store, StoreError};
use crate::clock::Millis;
use crate::instance::{Endpoint, Instance, InstanceId, NodeId, RateLimits, StateCounts, TemplateName};

/// Longest time for a usual call.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// Longest time to list the records of a node. There may be a hundred thousand, which are read a page at a time, behind
/// the calls that visitors wait for.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time to end the instances of a node, of which there may be as many.
const EVICTION_DEADLINE: Duration = Duration::from_secs(30);

/// A store whose calls fail as [`StoreError::Unavailable`] when they take too long: 1 s, or 30 s for those that touch
/// each record of a node.
///
/// What follows the stream of changes has no deadline here: it waits on purpose, and tries again by its own rules.
pub struct DeadlineStore(Arc<dyn Store>);

impl DeadlineStore {
    /// Bounds the calls to a store.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self(store))
    }
}

/// Bounds a call to a store.
///
/// # Errors
/// [`StoreError::Unavailable`] when `deadline` passes, else the error of the call.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {deadline:?}"))),
    }
}

#[async_trait]
impl Store for DeadlineStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        within(CALL_DEADLINE, self.0.insert(instance)).await
    }

    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        within(CALL_DEADLINE, self.0.offer(id, endpoint)).await
    }

    async fn withdraw(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        within(CALL_DEADLINE, self.0.withdraw(id)).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        within(CALL_DEADLINE, self.0.claim(claim)).await
    }

    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        within(CALL_DEADLINE, self.0.confirm(ids)).await
    }

    async fn undo_claim(&self, claim: &Claim) -> Result<Instance, StoreError> {
        within(CALL_DEADLINE, self.0.undo_claim(claim)).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        within(CALL_DEADLINE, self.0.get(id)).await
    }

    async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max_ttl: Duration,
        limits: RateLimits,
    ) -> Result<Instance, StoreError> {
        within(CALL_DEADLINE, self.0.extend(id, by, max_ttl, limits)).await
    }

    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        within(CALL_DEADLINE, self.0.release(id)).await
    }

    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        within(CALL_DEADLINE, self.0.retire(id)).await
    }

    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        within(CALL_DEADLINE, self.0.fail(id)).await
    }

    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        within(CALL_DEADLINE, self.0.sweep(limit)).await
    }

    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        within(CALL_DEADLINE, self.0.next_deadline()).await
    }

    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        within(LIST_DEADLINE, self.0.list(node)).await
    }

    async fn counts(
        &self,
        template: &TemplateName,
        node: Option<&NodeId>,
    ) -> Result<StateCounts, StoreError> {
        within(CALL_DEADLINE, self.0.counts(template, node)).await
    }

    async fn heartbeat(&self, info: &NodeInfo) -> Result<HeartbeatReply, StoreError> {
        within(CALL_DEADLINE, self.0.heartbeat(info)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        within(CALL_DEADLINE, self.0.nodes()).await
    }

    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        within(CALL_DEADLINE, self.0.drain(node, on)).await
    }

    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        within(EVICTION_DEADLINE, self.0.evict_node(node, silence)).await
    }

    async fn evicted_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        within(CALL_DEADLINE, self.0.evicted_nodes()).await
    }

    async fn forget_evicted(&self, node: &NodeId) -> Result<(), StoreError> {
        within(CALL_DEADLINE, self.0.forget_evicted(node)).await
    }

    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        self.0.routes().await
    }

    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        self.0.route_events(cursor, wait).await
    }

    fn is_durable(&self) -> bool {
        self.0.is_durable()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        within(CALL_DEADLINE, self.0.ping()).await
    }
}
