//! The embedded store: one server, in memory.
//!
//! Each template has one lock, held for about a microsecond and never across an await. Templates are found
//! without a lock. Time is read inside the lock, so that the steps of a template are in the order of their times.
//!
//! # A snapshot of the routes
//! `routes` reads the stream's last cursor, then the templates a piece at a time, and then applies to that what
//! the stream got meanwhile, up to a cursor that it returns. An event is appended under the lock under which its
//! record changes. So an event up to the first cursor belongs to a change that the later read of its template
//! sees; each later one up to the returned cursor is applied, in order, over whatever the read saw; and a record
//! changed after the returned cursor was read before that change. The result is the table at the returned
//! cursor, exactly.

mod claims;
mod nodes;
mod rate_limits;
mod ready_queue;
mod records;
mod route_log;
mod template_table;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use self::route_log::{BATCH, RouteLog};
use super::journal::Journal;
use super::{Claim, Claimed, Cursor, Membership, NodeInfo, NodeStatus, RouteEvents, Store, StoreError};
use crate::clock::{Clock, Millis};
use crate::instance::Counts;
use crate::instance::{Endpoint, Instance, InstanceId, NodeId, State, TemplateName};
use nodes::Nodes;
use template_table::TemplateTable;

/// Route events kept for followers that lag behind.
pub const ROUTE_EVENTS: usize = 65_536;

/// Most records done something with, or read, under one lock.
const PIECE: usize = 128;

/// See the module. What it knows ends with the process, but for what [`MemoryStore::open`] keeps.
pub struct MemoryStore {
    clock: Clock,
    /// One for each template that ever had an instance; the operator's file bounds them.
    shelves: papaya::HashMap<TemplateName, Arc<Mutex<TemplateTable>>>,
    log: RouteLog,
    /// Behind the lock of a template, where both are held.
    members: RwLock<Nodes>,
}

impl MemoryStore {
    /// An empty store that takes its time from `clock`.
    pub fn new(clock: Clock) -> Self {
        Self::with(clock, None)
    }

    /// A store that keeps what visitors have in a file, and begins with what the file says: for instances that outlive
    /// the server. What is warming or ready is not kept, for nobody misses it; neither is what visitors are charged.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(clock: Clock, file: PathBuf) -> io::Result<Self> {
        let (journal, living) = Journal::open(file)?;
        let store = Self::with(clock, Some(journal));
        let now = store.clock.now();
        for (instance, unconfirmed) in living {
            store.shelf_of(&instance).lock().restore(instance, unconfirmed.then_some(now));
        }
        Ok(store)
    }

    fn with(clock: Clock, journal: Option<Journal>) -> Self {
        let log = RouteLog::new(ROUTE_EVENTS, journal);
        Self { clock, shelves: papaya::HashMap::new(), log, members: RwLock::new(Nodes::new()) }
    }

    /// The shelf that an instance belongs to, made if it is the first.
    fn shelf_of(&self, instance: &Instance) -> Arc<Mutex<TemplateTable>> {
        let template =
            TemplateName::new(instance.id().template()).expect("an id begins with a template's name");
        self.shelves.pin().get_or_insert_with(template, Arc::default).clone()
    }

    /// Runs one step on the shelf of a template, if that template ever had an instance, and wakes the followers
    /// of the routes afterwards.
    fn on<T>(&self, template: &str, step: impl FnOnce(&mut TemplateTable, Millis) -> T) -> Option<T> {
        let shelves = self.shelves.pin();
        let mut shelf = shelves.get(template)?.lock();
        let now = self.clock.now();
        let done = step(&mut shelf, now);
        drop(shelf);
        self.log.wake();
        Some(done)
    }

    /// The same for a step on a record.
    fn at<T>(
        &self,
        id: &InstanceId,
        step: impl FnOnce(&mut TemplateTable, Millis) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.on(id.template(), step).unwrap_or(Err(StoreError::Unknown))
    }

    fn all_shelves(&self) -> Vec<Arc<Mutex<TemplateTable>>> {
        self.shelves.pin().values().cloned().collect()
    }

    /// Shows every record to `visit`, with the present. Others work between two pieces, and so may other tasks.
    async fn each_record(&self, mut visit: impl FnMut(&Instance, Millis) + Send) {
        for shelf in self.all_shelves() {
            let mut from = 0;
            while self.visit_piece(&shelf, from, &mut visit) {
                from += PIECE;
                tokio::task::yield_now().await;
            }
        }
    }

    fn visit_piece(
        &self,
        shelf: &Mutex<TemplateTable>,
        from: usize,
        visit: &mut impl FnMut(&Instance, Millis),
    ) -> bool {
        let shelf = shelf.lock();
        let now = self.clock.now();
        match shelf.piece(from, PIECE) {
            Some(records) => {
                records.for_each(|record| visit(record, now));
                true
            }
            None => false,
        }
    }

    /// See the module. `None` when the stream overtook the reading, which takes [`ROUTE_EVENTS`] steps.
    async fn snapshot(&self) -> Option<(HashMap<InstanceId, Instance>, Cursor)> {
        let mut cursor = self.log.last();
        let mut table = HashMap::new();
        self.each_record(|record, _| {
            if let State::Assigned { .. } | State::Expired { .. } = record.life() {
                table.insert(record.id().clone(), record.clone());
            }
        })
        .await;
        loop {
            let news = self.log.after(cursor)?;
            let at_the_end = news.len() < BATCH;
            for (at, change) in news {
                cursor = at;
                change.apply(&mut table);
            }
            if at_the_end {
                return Some((table, cursor));
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        self.shelf_of(&instance).lock().insert(instance)
    }

    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        self.at(id, |shelf, now| shelf.offer(id, endpoint, now, &self.log))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let claimed =
            self.on(claim.template.as_str(), |shelf, now| shelf.claim(claim, now, &self.log, &self.members));
        Ok(claimed.unwrap_or(Claimed::Empty))
    }

    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        // One template's come one after the other in most batches, and a lock is for not more than a piece.
        for same in ids.chunk_by(|a, b| a.template() == b.template()).flat_map(|same| same.chunks(PIECE)) {
            self.on(same[0].template(), |shelf, _| shelf.confirm(same, &self.log));
        }
        Ok(())
    }

    async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError> {
        // Also where nothing is yet: that the token gets none must be known when its claim arrives.
        self.shelves.pin().get_or_insert_with(claim.template.clone(), Arc::default);
        let step = |shelf: &mut TemplateTable, now| shelf.take_back(claim, now, &self.log);
        self.on(claim.template.as_str(), step).unwrap_or(Err(StoreError::Unknown))
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let shelves = self.shelves.pin();
        let Some(shelf) = shelves.get(id.template()) else { return Ok(None) };
        let shelf = shelf.lock();
        let (found, now) = (shelf.get(id).cloned(), self.clock.now());
        drop(shelf);
        Ok(found.map(|instance| instance.seen_at(now)))
    }

    async fn extend(&self, id: &InstanceId, by: Duration, max_ttl: Duration) -> Result<Instance, StoreError> {
        self.at(id, |shelf, now| shelf.extend(id, by, max_ttl, now, &self.log))
    }

    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        self.at(id, |shelf, now| shelf.release(id, now, &self.log))
    }

    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.at(id, |shelf, now| shelf.retire(id, now, &self.log))
    }

    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.at(id, |shelf, now| shelf.fail(id, now, &self.log))
    }

    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        // Templates in the order of their oldest work, so that a small limit starves none.
        let mut shelves: Vec<_> =
            self.all_shelves().into_iter().map(|shelf| (shelf.lock().next_due(), shelf.clone())).collect();
        shelves.sort_by_key(|(due, _)| due.unwrap_or(Millis(u64::MAX)));
        let (mut expired, mut left) = (Vec::new(), limit);
        for (_, shelf) in shelves {
            loop {
                let wanted = left.min(PIECE);
                let mut shelf = shelf.lock();
                let now = self.clock.now();
                let done = shelf.sweep(wanted, now, &self.log, &mut expired);
                shelf.tidy(now, PIECE);
                left -= done;
                if done < wanted || left == 0 {
                    break;
                }
            }
        }
        self.log.wake();
        Ok(expired)
    }

    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        Ok(self.shelves.pin().values().filter_map(|shelf| shelf.lock().next_due()).min())
    }

    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        let mut records = Vec::new();
        self.each_record(|record, now| {
            if record.node() == node {
                records.push(record.clone().seen_at(now));
            }
        })
        .await;
        Ok(records)
    }

    async fn counts(&self, template: &TemplateName, node: Option<&NodeId>) -> Result<Counts, StoreError> {
        let shelves = self.shelves.pin();
        Ok(shelves.get(template).map(|shelf| shelf.lock().counts(node)).unwrap_or_default())
    }

    async fn heartbeat(&self, card: &NodeInfo) -> Result<Membership, StoreError> {
        Ok(self.members.write().beat(card, self.clock.now()))
    }

    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        Ok(self.members.read().all(self.clock.now()))
    }

    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        if self.members.write().drain(node, on) { Ok(()) } else { Err(StoreError::Unknown) }
    }

    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        let is_silent = |now| self.members.read().silence(node, now).is_some_and(|silent| silent >= silence);
        let mut expired = Vec::new();
        for shelf in self.all_shelves() {
            for from in (0..).step_by(PIECE) {
                let mut shelf = shelf.lock();
                let now = self.clock.now();
                if !is_silent(now) || !shelf.bury(node, (from, PIECE), now, &self.log, &mut expired) {
                    break;
                }
            }
            self.log.wake();
        }
        let mut members = self.members.write();
        if members.silence(node, self.clock.now()).is_some_and(|silent| silent >= silence) {
            members.forget(node);
        }
        Ok(expired)
    }

    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        loop {
            // Read first: a lease over by now can not have been extended by a step that the table lacks.
            let now = self.clock.now();
            if let Some((table, cursor)) = self.snapshot().await {
                return Ok((table.into_values().map(|record| record.seen_at(now)).collect(), cursor));
            }
        }
    }

    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        let news = match self.log.after(cursor) {
            // A timer is for those who wait: it costs a millisecond even when it is set to none.
            Some(none) if none.is_empty() && !wait.is_zero() => {
                tokio::time::timeout(wait, self.log.followed(cursor)).await.unwrap_or(Some(none))
            }
            found => found,
        };
        Ok(news.map_or(RouteEvents::Gap, RouteEvents::Changes))
    }

    fn outlives_the_server(&self) -> bool {
        self.log.lasts()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
