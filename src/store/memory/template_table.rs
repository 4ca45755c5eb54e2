//! The instances of one template: each step on them, and the queue, deadlines and counts that go with the records.
//!
//! Plain data behind one lock; `now` is an argument.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::RwLock;

use super::assigned_instances::AssignedInstances;
use super::claim_tokens::{ClaimTokens, TokenState};
use super::instance_counts::InstanceCounts;
use super::nodes::Nodes;
use super::rate_limits::VisitorUsages;
use super::ready_queue::{QueueEnd, ReadyQueue};
use super::records::{Record, Records, Slot};
use super::route_log::RouteLog;
use super::step_kind::{StepKind, is_routed};
use crate::clock::Millis;
use crate::instance::{
    Endpoint, ExtendRefused, Instance, InstanceId, NodeId, RateLimited, RateLimits, State, StateCounts,
    TransitionRefused, Visitor, check_step, check_step_or_claim_undone,
};
use crate::store::{Claim, Claimed, Cursor, RouteChange, StoreError};

/// Stale usages and stale tokens that each claim removes. A claim adds at most one token and three usages, one for each
/// network of its visitor, so memory stays bounded even without sweeps.
const STALE_REMOVED_PER_CLAIM: usize = 4;

/// The record after a step, or as it was before where the [`Store`](crate::store::Store) says so.
type StepResult = Result<Instance, StoreError>;

/// All that the store knows of one template.
#[derive(Default)]
pub(super) struct TemplateTable {
    records: Records,
    ready: ReadyQueue,
    /// When a sweep has something to do with which record. Each assigned and each expired record is in it once.
    due: BTreeSet<(Millis, Slot)>,
    counts: InstanceCounts,
    tokens: ClaimTokens,
    usages: VisitorUsages,
    /// The assigned instances of visitors whom limits count.
    assigned: AssignedInstances,
}

impl TemplateTable {
    pub(super) fn counts(&self, node: Option<&NodeId>) -> StateCounts {
        self.counts.of(node)
    }

    /// Returns when a sweep next has something to do.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Returns the records in `count` slots from slot `from` on; `None` past the last slot.
    pub(super) fn portion(&self, from: usize, count: usize) -> Option<impl Iterator<Item = &Instance>> {
        self.records.portion(from, count)
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.records.by_id(id).map(|(_, instance)| instance)
    }

    fn find(&self, id: &InstanceId) -> Result<(Slot, &Instance), StoreError> {
        self.records.by_id(id).ok_or(StoreError::Unknown)
    }

    pub(super) fn insert(&mut self, instance: Instance) -> Result<(), StoreError> {
        if self.records.slot(instance.id()).is_some() {
            return Err(StoreError::Exists);
        }
        if !matches!(instance.state(), State::Warming) {
            return Err(TransitionRefused { from: instance.state().name(), step: "be inserted" }.into());
        }
        let slot = self.records.insert(instance);
        self.index(slot, QueueEnd::Back);
        Ok(())
    }

    /// Adds a record from the journal: ready, assigned or expired. `unconfirmed_since` is the present if the claim is
    /// unconfirmed: the time in which it may be confirmed begins anew.
    pub(super) fn restore(&mut self, instance: Instance, unconfirmed_since: Option<Millis>) {
        let token = instance.lease().map(|lease| lease.token());
        let slot = self.records.insert(instance);
        self.records.at_mut(slot).unconfirmed_since = unconfirmed_since;
        if let Some(token) = token {
            self.tokens.grant(token, slot);
        }
        self.index(slot, QueueEnd::Back);
    }

    pub(super) fn offer(
        &mut self,
        id: &InstanceId,
        endpoint: Endpoint,
        now: Millis,
        log: &RouteLog,
    ) -> StepResult {
        let (slot, instance) = self.find(id)?;
        let offered = instance.clone().seen_at(now).offered(endpoint)?;
        self.replace(slot, offered.clone(), StepKind::Other, now, log);
        Ok(offered)
    }

    pub(super) fn withdraw(&mut self, id: &InstanceId, now: Millis, log: &RouteLog) -> StepResult {
        let (slot, instance) = self.find(id)?;
        let withdrawn = instance.clone().seen_at(now).withdrawn()?;
        self.replace(slot, withdrawn.clone(), StepKind::Other, now, log);
        Ok(withdrawn)
    }

    pub(super) fn claim(
        &mut self,
        claim: &Claim,
        now: Millis,
        log: &RouteLog,
        nodes: &RwLock<Nodes>,
    ) -> Claimed {
        let Claim { node, token, visitor, limits, .. } = claim;
        let instance = match self.tokens.state(*token, now) {
            Some(TokenState::Granted(slot)) => {
                let granted = &self.records.at(slot).instance;
                match granted.state() {
                    State::Assigned { lease, .. } if !lease.is_over(now) => granted.clone(),
                    _ => return Claimed::Empty,
                }
            }
            Some(TokenState::Spent { .. }) => return Claimed::Empty,
            None => {
                if let Some(limited) = self.rate_limited(visitor, *limits, now) {
                    return Claimed::RateLimited(limited);
                }
                let nodes = nodes.read();
                let preferred = self.ready.first_of(node).filter(|_| !nodes.is_draining(node));
                let any = || self.ready.first_of_any(|node| nodes.is_claimable(node, now));
                let Some(slot) = preferred.or_else(any) else { return Claimed::Empty };
                drop(nodes);
                let ready = &self.records.at(slot).instance;
                let assigned = match limits.is_unlimited() {
                    true => ready.assigned(*token, now, claim.ttl),
                    false => ready.assigned_to(visitor, *token, now, claim.ttl),
                };
                let assigned = assigned.expect("the queue holds ready instances only");
                self.usages.charge(visitor, *limits, now);
                self.tokens.grant(*token, slot);
                self.replace(slot, assigned.clone(), StepKind::Claim, now, log);
                self.remove_stale(now, STALE_REMOVED_PER_CLAIM);
                assigned
            }
        };
        Claimed::Granted { instance, quota: self.usages.quota(visitor, *limits, now) }
    }

    /// Returns the refusal of a visitor who may not have one more instance.
    fn rate_limited(&self, visitor: &Visitor, limits: RateLimits, now: Millis) -> Option<RateLimited> {
        let for_window = self.usages.wait(visitor, limits, now);
        RateLimited::with_waits(limits, for_window, self.assigned.wait(visitor, limits.concurrent, now))
    }

    pub(super) fn confirm(&mut self, ids: &[InstanceId], log: &RouteLog) {
        log.record_confirmed(ids);
        for id in ids {
            let unconfirmed = |slot: &Slot| self.records.at(*slot).unconfirmed_since.is_some();
            let Some(slot) = self.records.slot(id).filter(unconfirmed) else { continue };
            let record = self.records.at_mut(slot);
            let before = record.due();
            record.unconfirmed_since = None;
            if let (Some(before), Some(after)) = (before, record.due()) {
                self.due.remove(&(before, slot));
                self.due.insert((after, slot));
            }
        }
    }

    pub(super) fn undo_claim(&mut self, claim: &Claim, now: Millis, log: &RouteLog) -> StepResult {
        let Claim { token, visitor, limits, .. } = claim;
        let slot = match self.tokens.state(*token, now) {
            Some(TokenState::Granted(slot)) => slot,
            Some(TokenState::Spent { .. }) => return Err(StoreError::Unknown),
            None => {
                self.tokens.spend(*token, now);
                return Err(StoreError::Unknown);
            }
        };
        let Record { instance, unconfirmed_since: Some(_), .. } = self.records.at(slot) else {
            return Err(StoreError::Unknown);
        };
        let ready = instance.claim_undone(now).map_err(|_| StoreError::Unknown)?;
        if let Some(lease) = instance.lease().filter(|_| limits.has_windows()) {
            self.usages.refund(visitor, lease.assigned_at());
        }
        self.replace(slot, ready.clone(), StepKind::UndoClaim, now, log);
        self.tokens.spend(*token, now);
        Ok(ready)
    }

    pub(super) fn extend(
        &mut self,
        id: &InstanceId,
        (by, max_ttl): (Duration, Duration),
        limits: RateLimits,
        now: Millis,
        log: &RouteLog,
    ) -> StepResult {
        let (slot, instance) = self.find(id)?;
        let extended = match instance.extended(by, max_ttl, now) {
            // Past its deadline an instance reads as expired, which is not assigned.
            None | Some(Err(ExtendRefused::Over)) => return Err(StoreError::Unknown),
            Some(extended) => extended?,
        };
        if let Some(visitor) = extended.visitor() {
            if let Some(limited) =
                RateLimited::with_waits(limits, self.usages.wait(visitor, limits, now), None)
            {
                return Err(ExtendRefused::RateLimited(limited).into());
            }
            self.usages.charge(visitor, limits, now);
        }
        self.replace(slot, extended.clone(), StepKind::Other, now, log);
        Ok(extended)
    }

    pub(super) fn release(
        &mut self,
        id: &InstanceId,
        now: Millis,
        log: &RouteLog,
    ) -> Result<(Instance, Cursor), StoreError> {
        let (slot, instance) = self.find(id)?;
        instance.may_be_released(now).map_err(|_| StoreError::Unknown)?;
        let (released, cursor) = self.remove(slot, now, log);
        if let Some(lease) = released.lease() {
            self.tokens.spend(lease.token(), now);
        }
        Ok((released, cursor.expect("an assigned instance has a route")))
    }

    pub(super) fn retire(&mut self, id: &InstanceId, now: Millis, log: &RouteLog) -> StepResult {
        let (slot, instance) = self.find(id)?;
        instance.clone().seen_at(now).may_be_retired()?;
        Ok(self.remove(slot, now, log).0)
    }

    pub(super) fn fail(&mut self, id: &InstanceId, now: Millis, log: &RouteLog) -> StepResult {
        let (slot, instance) = self.find(id)?;
        let ended = instance.failed(now).map_err(|_| StoreError::Unknown)?;
        Ok(self.end(slot, ended, now, log))
    }

    fn evict(&mut self, id: &InstanceId, now: Millis, log: &RouteLog) -> StepResult {
        let (slot, instance) = self.find(id)?;
        let ended = instance.evicted(now).map_err(|_| StoreError::Unknown)?;
        Ok(self.end(slot, ended, now, log))
    }

    /// Stores an instance that has ended, or removes it (`None`). Returns the record as it was.
    fn end(&mut self, slot: Slot, ended: Option<Instance>, now: Millis, log: &RouteLog) -> Instance {
        match ended {
            Some(expired) => self.replace(slot, expired, StepKind::Other, now, log),
            None => self.remove(slot, now, log).0,
        }
    }

    /// Ends the node's instances among the records in `count` slots from slot `from` on, and appends those that became
    /// expired. Returns false past the last slot.
    pub(super) fn evict_portion(
        &mut self,
        node: &NodeId,
        (from, count): (usize, usize),
        now: Millis,
        log: &RouteLog,
        expired: &mut Vec<Instance>,
    ) -> bool {
        let Some(records) = self.records.portion(from, count) else { return false };
        let ids: Vec<_> =
            records.filter(|record| record.node() == node).map(|record| record.id().clone()).collect();
        for id in ids {
            // An instance that has expired, or whose deadline has passed and which the sweep will end, is not evicted.
            if self.evict(&id, now, log).is_ok()
                && let Some(evicted) = self.get(&id)
            {
                expired.push(evicted.clone());
            }
        }
        true
    }

    /// Does what is due with at most `limit` records, the longest due first, and appends those that became expired.
    /// Returns how many records changed.
    pub(super) fn sweep(
        &mut self,
        limit: usize,
        now: Millis,
        log: &RouteLog,
        expired: &mut Vec<Instance>,
    ) -> usize {
        for done in 0..limit {
            let Some((_, slot)) = self.due.first().copied().filter(|(at, _)| *at <= now) else { return done };
            let instance = &self.records.at(slot).instance;
            // An assigned instance that is due before its deadline is unconfirmed.
            let ended = instance.expired(now).or_else(|_| instance.claim_lapsed(now)).ok();
            if let Some(ended) = ended {
                expired.push(ended.clone());
                self.replace(slot, ended, StepKind::Other, now, log);
            } else {
                let (gone, _) = self.remove(slot, now, log);
                if let Some(lease) = gone.lease() {
                    self.tokens.forget(lease.token());
                }
            }
        }
        limit
    }

    /// Checks at most `limit` usages and `limit` tokens, and removes those that are stale.
    pub(super) fn remove_stale(&mut self, now: Millis, limit: usize) {
        self.tokens.remove_stale(now, limit);
        self.usages.remove_stale(now, limit);
    }

    /// Stores the record after a step and appends the route event. Returns the record as it was.
    fn replace(
        &mut self,
        slot: Slot,
        after: Instance,
        kind: StepKind,
        now: Millis,
        log: &RouteLog,
    ) -> Instance {
        self.unindex(slot);
        let is_undo = kind == StepKind::UndoClaim;
        if is_routed(&after) || is_undo {
            log.push(RouteChange::Set(after.clone()), kind == StepKind::Claim);
        } else {
            log.record_unrouted(&after);
        }
        let record = self.records.at_mut(slot);
        record.unconfirmed_since = (kind == StepKind::Claim).then_some(now);
        let before = std::mem::replace(&mut record.instance, after);
        self.index(slot, if is_undo { QueueEnd::Front } else { QueueEnd::Back });
        let check = if is_undo { check_step_or_claim_undone } else { check_step };
        debug_assert_eq!(check(&before, self.get(before.id()), now), Ok(()));
        before
    }

    /// Removes a record, and appends a route event if proxies knew it.
    fn remove(&mut self, slot: Slot, now: Millis, log: &RouteLog) -> (Instance, Option<Cursor>) {
        self.unindex(slot);
        let gone = self.records.remove(slot).instance;
        let cursor = is_routed(&gone).then(|| log.push(RouteChange::Gone(gone.id().clone()), false));
        if let State::Ready { .. } = gone.state() {
            log.record_unready(gone.id());
        }
        debug_assert_eq!(check_step(&gone, None, now), Ok(()));
        (gone, cursor)
    }

    /// Removes a record from the queue, the deadlines, the visitor's instances and the counts, before it changes.
    fn unindex(&mut self, slot: Slot) {
        let record = self.records.at(slot);
        let (state, node) = (record.instance.state().clone(), record.instance.node().clone());
        if let State::Ready { .. } = state {
            self.ready.remove(&node, record.position);
        }
        if let State::Assigned { lease, visitor: Some(visitor), .. } = &state {
            self.assigned.remove(visitor, lease.deadline(), slot);
        }
        if let Some(at) = record.due() {
            self.due.remove(&(at, slot));
        }
        self.counts.change(&node, &state, |count| *count -= 1);
    }

    /// Adds a record that changed to the queue, the deadlines, the visitor's instances and the counts.
    fn index(&mut self, slot: Slot, end: QueueEnd) {
        let record = self.records.at_mut(slot);
        let (state, node) = (record.instance.state().clone(), record.instance.node().clone());
        if let State::Ready { .. } = state {
            record.position = self.ready.push(&node, slot, end);
        }
        if let State::Assigned { lease, visitor: Some(visitor), .. } = &state {
            self.assigned.insert(visitor, lease.deadline(), slot);
        }
        if let Some(at) = record.due() {
            self.due.insert((at, slot));
        }
        self.counts.change(&node, &state, |count| *count += 1);
    }

    /// Returns how many tokens, networks of visitors (as many as are charged or have instances) and slots are stored.
    #[cfg(test)]
    pub(super) fn stored(&self) -> (usize, usize, usize) {
        (self.tokens.len(), self.usages.len().max(self.assigned.len()), self.records.slot_count())
    }
}
