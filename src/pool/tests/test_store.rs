//! The embedded store with a line to it that can be cut: before a question, or before its answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Millis};
use crate::instance::Counts;
use crate::instance::{Endpoint, Instance, InstanceId, NodeId, TemplateName};
use crate::store::memory::MemoryStore;
use crate::store::{
    Claim, Claimed, Cursor, Membership, NodeInfo, NodeStatus, RouteEvents, Store, StoreError,
};

/// What becomes of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It is not even asked.
    Refused,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is not asked, and nobody says so.
    Hangs,
    /// It is done, and the answer never comes.
    AnswerHangs,
}

pub(super) struct TestStore {
    pub(super) inner: MemoryStore,
    faults: Mutex<HashMap<&'static str, Line>>,
    /// Whether nothing gets through.
    pub(super) down: AtomicBool,
    /// Rung when a question hangs.
    pub(super) hanging: Notify,
}

impl TestStore {
    pub(super) fn new(clock: Clock) -> Self {
        let inner = MemoryStore::new(clock);
        Self { inner, faults: Mutex::default(), down: AtomicBool::new(false), hanging: Notify::new() }
    }

    /// Makes the next question of that name go wrong.
    pub(super) fn cut(&self, question: &'static str, how: Line) {
        self.faults.lock().insert(question, how);
    }

    async fn line<T>(
        &self,
        question: &'static str,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.faults.lock().remove(question);
        let away = || Err(StoreError::Unavailable("the line is cut".to_owned()));
        // Whoever is given up, is given up before the question or before the answer.
        tokio::task::yield_now().await;
        match fault {
            _ if self.down.load(Ordering::SeqCst) => return away(),
            Some(Line::Refused) => return away(),
            Some(Line::Hangs) => {
                self.hanging.notify_one();
                std::future::pending().await
            }
            Some(Line::AnswerLost | Line::AnswerHangs) | None => {}
        }
        let answer = asked.await;
        tokio::task::yield_now().await;
        match fault {
            Some(Line::AnswerLost) => away(),
            Some(Line::AnswerHangs) => {
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
        self.line("insert", self.inner.insert(instance)).await
    }
    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        self.line("offer", self.inner.offer(id, endpoint)).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.line("claim", self.inner.claim(claim)).await
    }
    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        self.line("confirm", self.inner.confirm(ids)).await
    }
    async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError> {
        self.line("take_back", self.inner.take_back(claim)).await
    }
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        self.line("get", self.inner.get(id)).await
    }
    async fn extend(&self, id: &InstanceId, by: Duration, max_ttl: Duration) -> Result<Instance, StoreError> {
        self.line("extend", self.inner.extend(id, by, max_ttl)).await
    }
    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        self.line("release", self.inner.release(id)).await
    }
    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.line("retire", self.inner.retire(id)).await
    }
    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.line("fail", self.inner.fail(id)).await
    }
    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        self.line("sweep", self.inner.sweep(limit)).await
    }
    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        self.line("next_deadline", self.inner.next_deadline()).await
    }
    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        self.line("list", self.inner.list(node)).await
    }
    async fn counts(&self, template: &TemplateName, node: Option<&NodeId>) -> Result<Counts, StoreError> {
        self.line("counts", self.inner.counts(template, node)).await
    }
    async fn heartbeat(&self, card: &NodeInfo) -> Result<Membership, StoreError> {
        self.line("beat", self.inner.heartbeat(card)).await
    }
    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        self.line("roster", self.inner.nodes()).await
    }
    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        self.line("drain", self.inner.drain(node, on)).await
    }
    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        self.line("bury", self.inner.evict_node(node, silence)).await
    }
    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        self.line("routes", self.inner.routes()).await
    }
    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        self.line("route_events", self.inner.route_events(cursor, wait)).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.line("ping", self.inner.ping()).await
    }
}
