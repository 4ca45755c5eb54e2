//! The embedded store, with calls that can fail: before the store performs them, or before their answer arrives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Millis};
use crate::instance::{Endpoint, Instance, InstanceId, NodeId, RateLimits, StateCounts, TemplateName};
use crate::store::memory::MemoryStore;
use crate::store::{
    Claim, Claimed, Cursor, HeartbeatReply, NodeInfo, NodeStatus, RouteEvents, Store, StoreError,
};

/// How one call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallFault {
    /// It fails and is not performed.
    Refused,
    /// It is performed, and fails.
    AnswerLost,
    /// It is not performed, and never returns.
    Hangs,
    /// It is performed, and never returns.
    AnswerHangs,
}

pub(super) struct TestStore {
    pub(super) inner: MemoryStore,
    faults: Mutex<HashMap<&'static str, CallFault>>,
    /// How often each call was made.
    calls: Mutex<HashMap<&'static str, usize>>,
    /// Whether each call fails.
    pub(super) down: AtomicBool,
    /// Notified when a call hangs.
    pub(super) hanging: Notify,
}

impl TestStore {
    pub(super) fn new(clock: Clock) -> Self {
        let inner = MemoryStore::new(clock);
        Self {
            inner,
            faults: Mutex::default(),
            calls: Mutex::default(),
            down: AtomicBool::new(false),
            hanging: Notify::new(),
        }
    }

    /// Makes the next call of that name fail.
    pub(super) fn fail_next(&self, name: &'static str, how: CallFault) {
        self.faults.lock().insert(name, how);
    }

    /// Returns how often the call of that name was made.
    pub(super) fn calls(&self, name: &'static str) -> usize {
        self.calls.lock().get(name).copied().unwrap_or(0)
    }

    async fn call<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        *self.calls.lock().entry(name).or_default() += 1;
        let fault = self.faults.lock().remove(name);
        let unavailable = || Err(StoreError::Unavailable("the connection is cut".to_owned()));
        // A caller that is dropped is dropped here, or after the call was performed.
        tokio::task::yield_now().await;
        match fault {
            _ if self.down.load(Ordering::SeqCst) => return unavailable(),
            Some(CallFault::Refused) => return unavailable(),
            Some(CallFault::Hangs) => {
                self.hanging.notify_one();
                std::future::pending().await
            }
            Some(CallFault::AnswerLost | CallFault::AnswerHangs) | None => {}
        }
        let answer = call.await;
        tokio::task::yield_now().await;
        match fault {
            Some(CallFault::AnswerLost) => unavailable(),
            Some(CallFault::AnswerHangs) => {
                self.hanging.notify_one();
                std::future::pending().await
            }
            _ => answer,
        }
    }
}

#[async_trait]
impl Store for TestStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        self.call("insert", self.inner.insert(instance)).await
    }
    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        self.call("offer", self.inner.offer(id, endpoint)).await
    }
    async fn withdraw(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.call("withdraw", self.inner.withdraw(id)).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.call("claim", self.inner.claim(claim)).await
    }
    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        self.call("confirm", self.inner.confirm(ids)).await
    }
    async fn undo_claim(&self, claim: &Claim) -> Result<Instance, StoreError> {
        self.call("undo_claim", self.inner.undo_claim(claim)).await
    }
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        self.call("get", self.inner.get(id)).await
    }
    async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max_ttl: Duration,
        limits: RateLimits,
    ) -> Result<Instance, StoreError> {
        self.call("extend", self.inner.extend(id, by, max_ttl, limits)).await
    }
    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        self.call("release", self.inner.release(id)).await
    }
    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.call("retire", self.inner.retire(id)).await
    }
    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.call("fail", self.inner.fail(id)).await
    }
    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        self.call("sweep", self.inner.sweep(limit)).await
    }
    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        self.call("next_deadline", self.inner.next_deadline()).await
    }
    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        self.call("list", self.inner.list(node)).await
    }
    async fn counts(
        &self,
        template: &TemplateName,
        node: Option<&NodeId>,
    ) -> Result<StateCounts, StoreError> {
        self.call("counts", self.inner.counts(template, node)).await
    }
    async fn heartbeat(&self, info: &NodeInfo) -> Result<HeartbeatReply, StoreError> {
        self.call("heartbeat", self.inner.heartbeat(info)).await
    }
    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        self.call("nodes", self.inner.nodes()).await
    }
    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        self.call("drain", self.inner.drain(node, on)).await
    }
    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        self.call("evict_node", self.inner.evict_node(node, silence)).await
    }
    async fn evicted_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        self.call("evicted_nodes", self.inner.evicted_nodes()).await
    }
    async fn forget_evicted(&self, node: &NodeId) -> Result<(), StoreError> {
        self.call("forget_evicted", self.inner.forget_evicted(node)).await
    }
    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        self.call("routes", self.inner.routes()).await
    }
    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        self.call("route_events", self.inner.route_events(cursor, wait)).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.call("ping", self.inner.ping()).await
    }
}
