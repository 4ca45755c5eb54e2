//! [`MemoryStore`]: finds the table of a template, locks it, and runs one step.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use super::nodes::Nodes;
use super::route_log::{EVENTS_PER_BATCH, RouteLog};
use super::template_table::TemplateTable;
use crate::clock::{Clock, Millis};
use crate::instance::{Endpoint, Instance, InstanceId, NodeId, RateLimits, State, StateCounts, TemplateName};
use crate::store::journal::Journal;
use crate::store::{
    Claim, Claimed, Cursor, HeartbeatReply, NodeInfo, NodeStatus, RouteEvents, Store, StoreError,
};

/// Route events kept for followers that lag behind.
pub const MAX_ROUTE_EVENTS: usize = 65_536;

/// Most records read or changed under one lock.
const RECORDS_PER_LOCK: usize = 128;

/// The embedded store: one node, in memory.
///
/// Its content ends with the process, except the instances in the journal of [`MemoryStore::open`].
pub struct MemoryStore {
    clock: Clock,
    /// One table for each template that ever had an instance; the operator's template file bounds their number.
    tables: papaya::HashMap<TemplateName, Arc<Mutex<TemplateTable>>>,
    log: RouteLog,
    /// Locked after a template's table, where both are locked.
    nodes: RwLock<Nodes>,
}

impl MemoryStore {
    /// Returns an empty store that takes its time from `clock`.
    pub fn new(clock: Clock) -> Self {
        Self::with_journal(clock, None)
    }

    /// Opens a store that writes ready and visitors' instances to a journal and begins with those that the journal
    /// contains, for instances that outlive the server process.
    ///
    /// Warming instances are not in the journal, because a restart ends them; neither are the visitors' charges.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(clock: Clock, file: PathBuf) -> io::Result<Self> {
        let (journal, found) = Journal::open(file)?;
        let store = Self::with_journal(clock, Some(journal));
        let now = store.clock.now();
        for (instance, is_unconfirmed) in found {
            store.table_of(&instance).lock().restore(instance, is_unconfirmed.then_some(now));
        }
        Ok(store)
    }

    fn with_journal(clock: Clock, journal: Option<Journal>) -> Self {
        let log = RouteLog::new(MAX_ROUTE_EVENTS, journal);
        Self { clock, tables: papaya::HashMap::new(), log, nodes: RwLock::new(Nodes::new()) }
    }

    /// Returns the table of an instance's template, and creates it for the first instance.
    fn table_of(&self, instance: &Instance) -> Arc<Mutex<TemplateTable>> {
        let template =
            TemplateName::new(instance.id().template()).expect("an id begins with a template's name");
        self.tables.pin().get_or_insert_with(template, Arc::default).clone()
    }

    /// Runs one step on the table of a template, then wakes the readers of the route log. Returns `None` if the
    /// template never had an instance.
    pub(super) fn with_table<T>(
        &self,
        template: &str,
        step: impl FnOnce(&mut TemplateTable, Millis) -> T,
    ) -> Option<T> {
        let tables = self.tables.pin();
        let mut table = tables.get(template)?.lock();
        let now = self.clock.now();
        let done = step(&mut table, now);
        drop(table);
        self.log.wake();
        Some(done)
    }

    /// Runs one step on the table that has a record. `Unknown` if its template never had an instance.
    fn with_table_of<T>(
        &self,
        id: &InstanceId,
        step: impl FnOnce(&mut TemplateTable, Millis) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with_table(id.template(), step).unwrap_or(Err(StoreError::Unknown))
    }

    fn all_tables(&self) -> Vec<Arc<Mutex<TemplateTable>>> {
        self.tables.pin().values().cloned().collect()
    }

    /// Calls `visit` with every record and the present. Steps on the table and other tasks run between two portions.
    async fn visit_all(&self, mut visit: impl FnMut(&Instance, Millis) + Send) {
        for table in self.all_tables() {
            let mut from = 0;
            while self.visit_portion(&table, from, &mut visit) {
                from += RECORDS_PER_LOCK;
                tokio::task::yield_now().await;
            }
        }
    }

    fn visit_portion(
        &self,
        table: &Mutex<TemplateTable>,
        from: usize,
        visit: &mut impl FnMut(&Instance, Millis),
    ) -> bool {
        let table = table.lock();
        let now = self.clock.now();
        match table.portion(from, RECORDS_PER_LOCK) {
            Some(records) => {
                records.for_each(|record| visit(record, now));
                true
            }
            None => false,
        }
    }

    /// Reads a snapshot of the routes, as the docs of [`super`] describe it. `None` when the stream dropped events that
    /// were still needed, which takes [`MAX_ROUTE_EVENTS`] steps during the read.
    async fn snapshot(&self) -> Option<(HashMap<InstanceId, Instance>, Cursor)> {
        let mut cursor = self.log.last();
        let mut routes = HashMap::new();
        self.visit_all(|record, _| {
            if let State::Assigned { .. } | State::Expired { .. } = record.state() {
                routes.insert(record.id().clone(), record.clone());
            }
        })
        .await;
        loop {
            let events = self.log.after(cursor)?;
            let is_last_batch = events.len() < EVENTS_PER_BATCH;
            for (at, change) in events {
                cursor = at;
                change.apply(&mut routes);
            }
            if is_last_batch {
                return Some((routes, cursor));
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        self.table_of(&instance).lock().insert(instance)
    }

    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        self.with_table_of(id, |table, now| table.offer(id, endpoint, now, &self.log))
    }

    async fn withdraw(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.with_table_of(id, |table, now| table.withdraw(id, now, &self.log))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let step = |table: &mut TemplateTable, now: Millis| table.claim(claim, now, &self.log, &self.nodes);
        Ok(self.with_table(claim.template.as_str(), step).unwrap_or(Claimed::Empty))
    }

    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        // In most batches the ids of one template are adjacent. One lock is for a portion at most.
        let of_one_template = ids.chunk_by(|a, b| a.template() == b.template());
        for portion in of_one_template.flat_map(|ids| ids.chunks(RECORDS_PER_LOCK)) {
            self.with_table(portion[0].template(), |table, _| table.confirm(portion, &self.log));
        }
        Ok(())
    }

    async fn undo_claim(&self, claim: &Claim) -> Result<Instance, StoreError> {
        // The table is created if it is missing: a claim that arrives later must find its token spent.
        self.tables.pin().get_or_insert_with(claim.template.clone(), Arc::default);
        let step = |table: &mut TemplateTable, now| table.undo_claim(claim, now, &self.log);
        self.with_table(claim.template.as_str(), step).unwrap_or(Err(StoreError::Unknown))
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let tables = self.tables.pin();
        let Some(table) = tables.get(id.template()) else { return Ok(None) };
        let table = table.lock();
        let (found, now) = (table.get(id).cloned(), self.clock.now());
        drop(table);
        Ok(found.map(|instance| instance.seen_at(now)))
    }

    async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max_ttl: Duration,
        limits: RateLimits,
    ) -> Result<Instance, StoreError> {
        self.with_table_of(id, |table, now| table.extend(id, (by, max_ttl), limits, now, &self.log))
    }

    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        self.with_table_of(id, |table, now| table.release(id, now, &self.log))
    }

    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.with_table_of(id, |table, now| table.retire(id, now, &self.log))
    }

    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.with_table_of(id, |table, now| table.fail(id, now, &self.log))
    }

    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        // Templates in the order of what is longest due, so that a small limit starves none.
        let mut tables: Vec<_> =
            self.all_tables().into_iter().map(|table| (table.lock().next_due(), table.clone())).collect();
        tables.sort_by_key(|(due, _)| due.unwrap_or(Millis(u64::MAX)));
        let (mut expired, mut remaining) = (Vec::new(), limit);
        for (_, table) in tables {
            loop {
                let wanted = remaining.min(RECORDS_PER_LOCK);
                let mut table = table.lock();
                let now = self.clock.now();
                let done = table.sweep(wanted, now, &self.log, &mut expired);
                table.remove_stale(now, RECORDS_PER_LOCK);
                remaining -= done;
                if done < wanted || remaining == 0 {
                    break;
                }
            }
        }
        self.log.wake();
        Ok(expired)
    }

    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        Ok(self.tables.pin().values().filter_map(|table| table.lock().next_due()).min())
    }

    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        let mut records = Vec::new();
        self.visit_all(|record, now| {
            if record.node() == node {
                records.push(record.clone().seen_at(now));
            }
        })
        .await;
        Ok(records)
    }

    async fn counts(
        &self,
        template: &TemplateName,
        node: Option<&NodeId>,
    ) -> Result<StateCounts, StoreError> {
        let tables = self.tables.pin();
        Ok(tables.get(template).map(|table| table.lock().counts(node)).unwrap_or_default())
    }

    async fn heartbeat(&self, info: &NodeInfo) -> Result<HeartbeatReply, StoreError> {
        Ok(self.nodes.write().record_heartbeat(info, self.clock.now()))
    }

    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        Ok(self.nodes.read().all(self.clock.now()))
    }

    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        if self.nodes.write().set_draining(node, on) { Ok(()) } else { Err(StoreError::Unknown) }
    }

    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        let is_silent = |now| self.nodes.read().silence(node, now).is_some_and(|found| found >= silence);
        let mut expired = Vec::new();
        for table in self.all_tables() {
            for from in (0..).step_by(RECORDS_PER_LOCK) {
                let mut table = table.lock();
                let now = self.clock.now();
                let portion = (from, RECORDS_PER_LOCK);
                if !is_silent(now) || !table.evict_portion(node, portion, now, &self.log, &mut expired) {
                    break;
                }
            }
            self.log.wake();
        }
        let (mut nodes, now) = (self.nodes.write(), self.clock.now());
        if nodes.silence(node, now).is_some_and(|found| found >= silence) {
            nodes.evict(node, now);
        }
        Ok(expired)
    }

    async fn evicted_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        Ok(self.nodes.read().evicted())
    }

    async fn forget_evicted(&self, node: &NodeId) -> Result<(), StoreError> {
        self.nodes.write().forget_evicted(node);
        Ok(())
    }

    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        loop {
            // The time is read before the snapshot: a lease that is over by then cannot be extended by a step that the
            // snapshot lacks.
            let now = self.clock.now();
            if let Some((routes, cursor)) = self.snapshot().await {
                return Ok((routes.into_values().map(|record| record.seen_at(now)).collect(), cursor));
            }
        }
    }

    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        let events = match self.log.after(cursor) {
            // Without a wait there is no timer: one costs a millisecond even when it is set to zero.
            Some(none) if none.is_empty() && !wait.is_zero() => {
                tokio::time::timeout(wait, self.log.wait_after(cursor)).await.unwrap_or(Some(none))
            }
            found => found,
        };
        Ok(events.map_or(RouteEvents::Gap, RouteEvents::Changes))
    }

    fn is_durable(&self) -> bool {
        self.log.has_journal()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
