//! All that the store knows of one template. Plain data behind one lock; `now` is an argument.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::claims::{Claims, Fate};
use super::nodes::Nodes;
use super::rate_limits::RateLimits;
use super::ready_queue::{End, ReadyQueue};
use super::records::{Record, Records, Slot};
use super::route_log::RouteLog;
use parking_lot::RwLock;

use crate::clock::Millis;
use crate::instance::Counts;
use crate::instance::{
    Endpoint, ExtendRefused, Instance, InstanceId, NodeId, RETENTION, Refused, State, check_step,
    check_step_or_taken_back,
};
use crate::store::{Claim, Claimed, Cursor, RouteChange, StoreError, UNCONFIRMED_FOR};

/// Each claim makes at most one usage and one token; it drops up to this many stale ones, so memory is bounded
/// even when nobody sweeps.
const TIDIED_BY_A_CLAIM: usize = 2;

#[derive(Default)]
pub(super) struct TemplateTable {
    records: Records,
    ready: ReadyQueue,
    /// When a sweep has something to do with which record. Each assigned and each expired one is in it once.
    due: BTreeSet<(Millis, Slot)>,
    counts: Counts,
    /// Those of nodes that have any.
    counts_by_node: HashMap<NodeId, Counts>,
    claims: Claims,
    usages: RateLimits,
}

/// What a step means besides what it makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody knows whether the visitor was told.
    Claim,
    /// The visitor was not, and the proxies were.
    TakingBack,
    Step,
}

/// When a sweep has something to do with it.
fn due(record: &Record) -> Option<Millis> {
    match record.instance.life() {
        State::Warming | State::Ready { .. } => None,
        State::Assigned { lease, .. } => {
            let unconfirmed = record.unconfirmed.map(|since| since + UNCONFIRMED_FOR);
            Some(unconfirmed.map_or(lease.deadline(), |until| until.min(lease.deadline())))
        }
        State::Expired { at, .. } => Some(*at + RETENTION),
    }
}

impl TemplateTable {
    pub(super) fn counts(&self, node: Option<&NodeId>) -> Counts {
        match node {
            None => self.counts,
            Some(node) => self.counts_by_node.get(node).copied().unwrap_or_default(),
        }
    }

    fn count(&mut self, node: &NodeId, life: &State, change: impl Fn(&mut usize)) {
        let apply = |counts: &mut Counts| match life {
            State::Warming => change(&mut counts.warming),
            State::Ready { .. } => change(&mut counts.ready),
            State::Assigned { .. } => change(&mut counts.assigned),
            State::Expired { .. } => {}
        };
        apply(&mut self.counts);
        let own = self.counts_by_node.entry(node.clone()).or_default();
        apply(own);
        // Nodes come and go.
        if *own == Counts::default() {
            self.counts_by_node.remove(node);
        }
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The records in `count` places from `from` on; `None` past the end.
    pub(super) fn piece(&self, from: usize, count: usize) -> Option<impl Iterator<Item = &Instance>> {
        self.records.piece(from, count)
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.records.by_id(id).map(|(_, instance)| instance)
    }

    fn known(&self, id: &InstanceId) -> Result<(Slot, &Instance), StoreError> {
        self.records.by_id(id).ok_or(StoreError::Unknown)
    }

    pub(super) fn insert(&mut self, instance: Instance) -> Result<(), StoreError> {
        if self.records.slot(instance.id()).is_some() {
            return Err(StoreError::Exists);
        }
        if !matches!(instance.life(), State::Warming) {
            return Err(Refused { from: instance.life().name(), step: "be inserted" }.into());
        }
        let slot = self.records.insert(instance);
        self.enlist(slot, End::Back);
        Ok(())
    }

    /// Takes a record back that a store before this one had, assigned or expired; since now it is unconfirmed again, if it
    /// was.
    pub(super) fn restore(&mut self, instance: Instance, unconfirmed: Option<Millis>) {
        let token = instance.lease().map(|lease| lease.token());
        let slot = self.records.insert(instance);
        self.records.at_mut(slot).unconfirmed = unconfirmed;
        if let Some(token) = token {
            self.claims.granted(token, slot);
        }
        self.enlist(slot, End::Back);
    }

    pub(super) fn offer(&mut self, id: &InstanceId, at: Endpoint, now: Millis, log: &RouteLog) -> Stepped {
        let (slot, it) = self.known(id)?;
        let offered = it.clone().seen_at(now).offered(at)?;
        self.replace(slot, offered.clone(), Kind::Step, now, log);
        Ok(offered)
    }

    pub(super) fn claim(
        &mut self,
        claim: &Claim,
        now: Millis,
        log: &RouteLog,
        members: &RwLock<Nodes>,
    ) -> Claimed {
        let Claim { node, token, visitor, limits, .. } = claim;
        let instance = match self.claims.fate(*token, now) {
            Some(Fate::Holds(slot)) => {
                let held = &self.records.at(slot).instance;
                match held.life() {
                    State::Assigned { lease, .. } if !lease.is_over(now) => held.clone(),
                    _ => return Claimed::Empty,
                }
            }
            Some(Fate::Over { .. }) => return Claimed::Empty,
            None => {
                let charged = match self.usages.charged(visitor, *limits, now) {
                    Ok(charged) => charged,
                    Err(limited) => return Claimed::RateLimited(limited),
                };
                let members = members.read();
                let own = self.ready.next_of(node).filter(|_| !members.is_draining(node));
                let any = || self.ready.next_of_any(|node| members.is_fit(node, now));
                let Some(slot) = own.or_else(any) else { return Claimed::Empty };
                drop(members);
                let ready = &self.records.at(slot).instance;
                let assigned =
                    ready.assigned(*token, now, claim.ttl).expect("the queue holds ready instances only");
                self.usages.keep(visitor, charged, *limits, now);
                self.claims.granted(*token, slot);
                self.replace(slot, assigned.clone(), Kind::Claim, now, log);
                self.tidy(now, TIDIED_BY_A_CLAIM);
                assigned
            }
        };
        Claimed::Granted { instance, quota: self.usages.quota(visitor, *limits, now) }
    }

    /// These were delivered.
    pub(super) fn confirm(&mut self, ids: &[InstanceId], log: &RouteLog) {
        log.confirmed(ids);
        for id in ids {
            let Some(slot) =
                self.records.slot(id).filter(|slot| self.records.at(*slot).unconfirmed.is_some())
            else {
                continue;
            };
            let record = self.records.at_mut(slot);
            let before = due(record);
            record.unconfirmed = None;
            if let (Some(before), Some(after)) = (before, due(record)) {
                self.due.remove(&(before, slot));
                self.due.insert((after, slot));
            }
        }
    }

    pub(super) fn take_back(&mut self, claim: &Claim, now: Millis, log: &RouteLog) -> Stepped {
        let Claim { token, visitor, limits, .. } = claim;
        let slot = match self.claims.fate(*token, now) {
            Some(Fate::Holds(slot)) => slot,
            Some(Fate::Over { .. }) => return Err(StoreError::Unknown),
            None => {
                self.claims.over(*token, now);
                return Err(StoreError::Unknown);
            }
        };
        let Record { instance, unconfirmed: Some(_), .. } = self.records.at(slot) else {
            return Err(StoreError::Unknown);
        };
        let back = instance.taken_back(now).map_err(|_| StoreError::Unknown)?;
        if let Some(lease) = instance.lease().filter(|_| !limits.are_none()) {
            self.usages.refund(visitor, lease.assigned_at());
        }
        self.replace(slot, back.clone(), Kind::TakingBack, now, log);
        self.claims.over(*token, now);
        Ok(back)
    }

    pub(super) fn extend(
        &mut self,
        id: &InstanceId,
        by: Duration,
        max_ttl: Duration,
        now: Millis,
        log: &RouteLog,
    ) -> Stepped {
        let (slot, it) = self.known(id)?;
        let extended = match it.extended(by, max_ttl, now) {
            // Past its deadline it reads as expired, which is not assigned.
            None | Some(Err(ExtendRefused::Over)) => return Err(StoreError::Unknown),
            Some(extended) => extended?,
        };
        self.replace(slot, extended.clone(), Kind::Step, now, log);
        Ok(extended)
    }

    pub(super) fn release(
        &mut self,
        id: &InstanceId,
        now: Millis,
        log: &RouteLog,
    ) -> Result<(Instance, Cursor), StoreError> {
        let (slot, it) = self.known(id)?;
        it.may_be_released(now).map_err(|_| StoreError::Unknown)?;
        let (released, cursor) = self.remove(slot, now, log);
        if let Some(lease) = released.lease() {
            self.claims.over(lease.token(), now);
        }
        Ok((released, cursor.expect("an assigned instance has a route")))
    }

    pub(super) fn retire(&mut self, id: &InstanceId, now: Millis, log: &RouteLog) -> Stepped {
        let (slot, it) = self.known(id)?;
        it.clone().seen_at(now).may_be_retired()?;
        Ok(self.remove(slot, now, log).0)
    }

    pub(super) fn fail(&mut self, id: &InstanceId, now: Millis, log: &RouteLog) -> Stepped {
        let (slot, it) = self.known(id)?;
        match it.failed(now).map_err(|_| StoreError::Unknown)? {
            Some(expired) => Ok(self.replace(slot, expired, Kind::Step, now, log)),
            None => Ok(self.remove(slot, now, log).0),
        }
    }

    /// Ends what the node has among the records in `count` places from `from` on, and appends those that became expired.
    /// False past the end.
    pub(super) fn bury(
        &mut self,
        node: &NodeId,
        (from, count): (usize, usize),
        now: Millis,
        log: &RouteLog,
        expired: &mut Vec<Instance>,
    ) -> bool {
        let Some(piece) = self.records.piece(from, count) else { return false };
        let ids: Vec<_> =
            piece.filter(|record| record.node() == node).map(|record| record.id().clone()).collect();
        for id in ids {
            // What is over already, or is for the sweep to end, is no failure.
            if self.fail(&id, now, log).is_ok()
                && let Some(over) = self.get(&id)
            {
                expired.push(over.clone());
            }
        }
        true
    }

    /// Does what is due with at most `limit` records, the longest due first, and appends those that became
    /// expired. Returns with how many records it did something.
    pub(super) fn sweep(
        &mut self,
        limit: usize,
        now: Millis,
        log: &RouteLog,
        expired: &mut Vec<Instance>,
    ) -> usize {
        for done in 0..limit {
            let Some((_, slot)) = self.due.first().copied().filter(|(at, _)| *at <= now) else { return done };
            let it = &self.records.at(slot).instance;
            // Due before its deadline is only what nobody confirmed.
            let over = it.expired(now).ok().or_else(|| it.failed(now).ok().flatten());
            if let Some(over) = over {
                expired.push(over.clone());
                self.replace(slot, over, Kind::Step, now, log);
            } else {
                let (gone, _) = self.remove(slot, now, log);
                if let Some(lease) = gone.lease() {
                    self.claims.forgotten(lease.token());
                }
            }
        }
        limit
    }

    /// Drops stale usages and tokens, looking at no more than `limit` of each.
    pub(super) fn tidy(&mut self, now: Millis, limit: usize) {
        self.claims.tidy(now, limit);
        self.usages.tidy(now, limit);
    }

    /// Stores a step and tells the proxies. Returns the record as it was.
    fn replace(&mut self, slot: Slot, after: Instance, kind: Kind, now: Millis, log: &RouteLog) -> Instance {
        self.unlist(slot);
        let routed = matches!(after.life(), State::Assigned { .. } | State::Expired { .. });
        if routed || kind == Kind::TakingBack {
            log.push(RouteChange::Set(after.clone()), kind == Kind::Claim);
        }
        let record = self.records.at_mut(slot);
        record.unconfirmed = (kind == Kind::Claim).then_some(now);
        let before = std::mem::replace(&mut record.instance, after);
        let taken_back = kind == Kind::TakingBack;
        self.enlist(slot, if taken_back { End::Front } else { End::Back });
        let check = if taken_back { check_step_or_taken_back } else { check_step };
        debug_assert_eq!(check(&before, self.get(before.id()), now), Ok(()));
        before
    }

    /// Removes a record, and tells the proxies if they knew it.
    fn remove(&mut self, slot: Slot, now: Millis, log: &RouteLog) -> (Instance, Option<Cursor>) {
        self.unlist(slot);
        let gone = self.records.remove(slot).instance;
        let known = matches!(gone.life(), State::Assigned { .. } | State::Expired { .. });
        let cursor = known.then(|| log.push(RouteChange::Gone(gone.id().clone()), false));
        debug_assert_eq!(check_step(&gone, None, now), Ok(()));
        (gone, cursor)
    }

    /// Takes a record out of the queue, the deadlines and the counts, before it changes.
    fn unlist(&mut self, slot: Slot) {
        let record = self.records.at(slot);
        let (life, node) = (*record.instance.life(), record.instance.node().clone());
        if let State::Ready { .. } = life {
            self.ready.remove(&node, record.turn);
        }
        if let Some(at) = due(record) {
            self.due.remove(&(at, slot));
        }
        self.count(&node, &life, |count| *count -= 1);
    }

    /// Puts a record that changed into the queue, the deadlines and the counts.
    fn enlist(&mut self, slot: Slot, end: End) {
        let record = self.records.at_mut(slot);
        let (life, node) = (*record.instance.life(), record.instance.node().clone());
        if let State::Ready { .. } = life {
            record.turn = self.ready.push(&node, slot, end);
        }
        if let Some(at) = due(record) {
            self.due.insert((at, slot));
        }
        self.count(&node, &life, |count| *count += 1);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize, usize) {
        (self.claims.len(), self.usages.len(), self.records.places())
    }
}

/// The record as it is (or was, see the trait) after a step.
type Stepped = Result<Instance, StoreError>;
