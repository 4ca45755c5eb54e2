//! A reference model of a store: the same rules, as simply as they can be written, with lists that are searched from
//! end to end.

use std::collections::HashSet;
use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::instance::{
    ClaimToken, EndReason, Endpoint, ExtendRefused, Instance, InstanceId, RateLimited, RateLimits,
    ReachedLimit, State, TransitionRefused,
};
use try_it_now::store::{Claim, Claimed, Quota, StoreError, Visitor};

const MINUTE: Duration = Duration::from_secs(60);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ModelState {
    Warming,
    Ready(Endpoint),
    Assigned { at: Endpoint, token: ClaimToken, from: Millis, until: Millis, by: Option<Visitor> },
    Expired { token: ClaimToken, from: Millis, until: Millis, ended: Millis, reason: EndReason },
}

/// The visible part of an instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) id: InstanceId,
    pub(crate) node: String,
    pub(crate) generation: u64,
    pub(crate) state: ModelState,
}

/// The result of a claim.
pub(crate) enum ClaimResult {
    Instance(View, Option<Quota>),
    Not(Claimed),
}

pub(crate) struct ReferenceModel {
    pub(crate) now: Millis,
    /// In the order in which they became ready.
    pub(crate) records: Vec<View>,
    /// For each granted claim: its token, its instance, and when that was released.
    tokens: Vec<(ClaimToken, InstanceId, Option<Millis>)>,
    /// The charges and the refunds, in order, each of one template and one network of visitors.
    charges: Vec<(String, String, Charge)>,
    /// The assigned instances whose claims are not confirmed.
    pub(crate) unconfirmed: HashSet<InstanceId>,
}

#[derive(Clone, Copy)]
enum Charge {
    At(Millis),
    /// The refund of the charge at that time.
    Undone(Millis),
}

pub(crate) fn view(of: &Instance) -> View {
    let state = match of.state() {
        State::Warming => ModelState::Warming,
        State::Ready { endpoint } => ModelState::Ready(*endpoint),
        State::Assigned { endpoint, lease, visitor } => ModelState::Assigned {
            at: *endpoint,
            token: lease.token(),
            from: lease.assigned_at(),
            until: lease.deadline(),
            by: visitor.clone(),
        },
        State::Expired { lease, at, reason } => ModelState::Expired {
            token: lease.token(),
            from: lease.assigned_at(),
            until: lease.deadline(),
            ended: *at,
            reason: *reason,
        },
    };
    View { id: of.id().clone(), node: of.node().to_string(), generation: of.generation(), state }
}

fn refused<T>(from: &'static str, step: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Refused(TransitionRefused { from, step }))
}

fn name(state: &ModelState) -> &'static str {
    match state {
        ModelState::Warming => "warming",
        ModelState::Ready(_) => "ready",
        ModelState::Assigned { .. } => "assigned",
        ModelState::Expired { .. } => "expired",
    }
}

impl ReferenceModel {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            now,
            records: Vec::new(),
            tokens: Vec::new(),
            charges: Vec::new(),
            unconfirmed: HashSet::new(),
        }
    }

    /// Returns a record as readers see it.
    pub(crate) fn seen(&self, of: &View) -> View {
        match of.state {
            ModelState::Assigned { token, from, until, .. } if until <= self.now => View {
                generation: of.generation + 1,
                state: ModelState::Expired { token, from, until, ended: until, reason: EndReason::Expired },
                ..of.clone()
            },
            _ => of.clone(),
        }
    }

    /// Returns when a sweep has to change or remove a record.
    pub(crate) fn due(&self, of: &View) -> Option<Millis> {
        match of.state {
            ModelState::Assigned { from, until, .. } if self.unconfirmed.contains(&of.id) => {
                Some(until.min(from + MINUTE))
            }
            ModelState::Assigned { until, .. } => Some(until),
            ModelState::Expired { ended, .. } => Some(ended + TEN_MINUTES),
            ModelState::Warming | ModelState::Ready(_) => None,
        }
    }

    pub(crate) fn find(&self, id: &InstanceId) -> Result<View, StoreError> {
        self.records.iter().find(|r| r.id == *id).map(|r| self.seen(r)).ok_or(StoreError::Unknown)
    }

    pub(crate) fn put(&mut self, id: &InstanceId, state: Option<ModelState>) -> View {
        let n = self.records.iter().position(|r| r.id == *id).unwrap();
        let mut record = self.records.remove(n);
        self.unconfirmed.remove(id);
        if let Some(state) = state {
            record.state = state;
            record.generation += 1;
            self.records.push(record.clone());
        }
        record
    }

    pub(crate) fn insert(&mut self, id: &InstanceId, node: &str) -> Result<(), StoreError> {
        if self.find(id).is_ok() {
            return Err(StoreError::Exists);
        }
        let (id, node) = (id.clone(), node.to_owned());
        self.records.push(View { id, node, generation: 1, state: ModelState::Warming });
        Ok(())
    }

    pub(crate) fn offer(&mut self, id: &InstanceId, at: Endpoint) -> Result<View, StoreError> {
        match self.find(id)?.state {
            ModelState::Warming => Ok(self.put(id, Some(ModelState::Ready(at)))),
            other => refused(name(&other), "be offered"),
        }
    }

    pub(crate) fn withdraw(&mut self, id: &InstanceId) -> Result<View, StoreError> {
        match self.find(id)?.state {
            ModelState::Ready(_) => Ok(self.put(id, Some(ModelState::Warming))),
            other => refused(name(&other), "be withdrawn"),
        }
    }

    pub(crate) fn extend(
        &mut self,
        id: &InstanceId,
        longer: Duration,
        max: Duration,
        limits: RateLimits,
    ) -> Result<View, StoreError> {
        let ModelState::Assigned { at, token, from, until, by } = self.find(id)?.state else {
            return Err(StoreError::Unknown);
        };
        if until + longer > from + max {
            return Err(StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(max)));
        }
        if let Some(visitor) = &by {
            let retry_after = self.window_wait(id.template(), visitor, limits);
            if !retry_after.is_zero() {
                let limited = RateLimited { limits, reached: ReachedLimit::Window, retry_after };
                return Err(StoreError::NotExtended(ExtendRefused::RateLimited(limited)));
            }
            self.charge(id.template(), visitor, limits, Charge::At(self.now));
        }
        Ok(self.put(id, Some(ModelState::Assigned { at, token, from, until: until + longer, by })))
    }

    /// Charges or refunds each network of the visitor.
    fn charge(&mut self, template: &str, visitor: &Visitor, limits: RateLimits, charge: Charge) {
        if limits.hourly + limits.daily > 0 {
            for network in visitor.networks() {
                self.charges.push((template.to_owned(), network.name.to_owned(), charge));
            }
        }
    }

    /// Returns the longest time until each window of each network of the visitor has room; zero for now.
    fn window_wait(&self, template: &str, visitor: &Visitor, limits: RateLimits) -> Duration {
        let mut longest = Duration::ZERO;
        for network in visitor.networks() {
            for (length, limit) in [(HOUR, limits.hourly), (DAY, limits.daily)] {
                match self.window(template, network.name, length) {
                    Some((ends, used)) if limit > 0 && used >= limit * network.factor => {
                        longest = longest.max(ends.since(self.now));
                    }
                    _ => {}
                }
            }
        }
        longest
    }

    /// Returns the longest time until each network of the visitor has fewer instances than the limit; zero for now.
    fn end_wait(&self, template: &str, visitor: &Visitor, limit: u32) -> Duration {
        let mut longest = Duration::ZERO;
        for network in visitor.networks().filter(|_| limit > 0) {
            let in_network = |by: &Option<Visitor>| {
                by.as_ref().is_some_and(|by| by.networks().any(|other| other.name == network.name))
            };
            let of_template = self.records.iter().filter(|record| record.id.template() == template);
            let mut ends: Vec<_> = of_template
                .filter_map(|record| match &record.state {
                    ModelState::Assigned { until, by, .. } if *until > self.now && in_network(by) => {
                        Some(*until)
                    }
                    _ => None,
                })
                .collect();
            ends.sort();
            let allowed = (limit * network.factor) as usize;
            if ends.len() >= allowed {
                longest = longest.max(ends[ends.len() - allowed].since(self.now));
            }
        }
        longest
    }

    pub(crate) fn release(&mut self, id: &InstanceId) -> Result<View, StoreError> {
        let before = self.find(id)?;
        let ModelState::Assigned { token, .. } = before.state else { return Err(StoreError::Unknown) };
        self.put(id, None);
        let now = self.now;
        self.tokens
            .iter_mut()
            .filter(|(t, i, _)| *t == token && i == id)
            .for_each(|grant| grant.2 = Some(now));
        Ok(before)
    }

    pub(crate) fn confirm(&mut self, ids: &[InstanceId]) {
        self.unconfirmed.retain(|id| !ids.contains(id));
    }

    pub(crate) fn take_back(&mut self, claim: &Claim) -> Result<View, StoreError> {
        let now = self.now;
        let granted = match self.tokens.iter().rfind(|(token, ..)| *token == claim.token).cloned() {
            Some((_, id, None)) if self.holds(&id, claim.token) => id,
            Some((_, _, Some(over))) if now < over + TEN_MINUTES => return Err(StoreError::Unknown),
            _ => {
                self.tokens.push((claim.token, InstanceId::random(&claim.template), Some(now)));
                return Err(StoreError::Unknown);
            }
        };
        let ModelState::Assigned { at, from, .. } = self.find(&granted)?.state else {
            return Err(StoreError::Unknown);
        };
        if !self.unconfirmed.contains(&granted) {
            return Err(StoreError::Unknown);
        }
        self.put(&granted, Some(ModelState::Ready(at)));
        let back = self.records.pop().unwrap();
        self.records.insert(0, back.clone());
        self.charge(claim.template.as_str(), &claim.visitor, claim.limits, Charge::Undone(from));
        self.tokens.iter_mut().filter(|grant| grant.0 == claim.token).for_each(|grant| grant.2 = Some(now));
        Ok(back)
    }

    /// Returns whether a record, assigned or expired, has the lease of this token.
    fn holds(&self, id: &InstanceId, of: ClaimToken) -> bool {
        self.find(id).is_ok_and(|it| {
            matches!(it.state, ModelState::Assigned { token, .. } | ModelState::Expired { token, .. } if token == of)
        })
    }

    pub(crate) fn retire(&mut self, id: &InstanceId) -> Result<View, StoreError> {
        let before = self.find(id)?;
        match before.state {
            ModelState::Warming | ModelState::Ready(_) => {
                self.put(id, None);
                Ok(before)
            }
            other => refused(name(&other), "be retired"),
        }
    }

    pub(crate) fn fail(&mut self, id: &InstanceId) -> Result<View, StoreError> {
        let before = self.find(id)?;
        match before.state {
            ModelState::Warming | ModelState::Ready(_) => drop(self.put(id, None)),
            ModelState::Assigned { token, from, until, .. } => {
                let ended = self.now;
                self.put(
                    id,
                    Some(ModelState::Expired { token, from, until, ended, reason: EndReason::Failed }),
                );
            }
            ModelState::Expired { .. } => return Err(StoreError::Unknown),
        }
        Ok(before)
    }

    pub(crate) fn claim(&mut self, claim: &Claim) -> ClaimResult {
        let earlier = self.tokens.iter().rfind(|(token, ..)| *token == claim.token).cloned();
        match earlier {
            Some((_, _, Some(released))) if self.now < released + TEN_MINUTES => {
                return ClaimResult::Not(Claimed::Empty);
            }
            // The id may belong to another instance by now. What counts is whether the lease is still on record.
            Some((_, id, None)) => match self.find(&id).map(|it| (it.state.clone(), it)) {
                Ok((ModelState::Assigned { token, .. }, it)) if token == claim.token => {
                    return ClaimResult::Instance(it, self.quota(claim));
                }
                Ok((ModelState::Expired { token, .. }, _)) if token == claim.token => {
                    return ClaimResult::Not(Claimed::Empty);
                }
                _ => {}
            },
            _ => {}
        }
        let Claim { limits, visitor, .. } = claim;
        let window = self.window_wait(claim.template.as_str(), visitor, *limits);
        let end = self.end_wait(claim.template.as_str(), visitor, limits.concurrent);
        if !window.max(end).is_zero() {
            let reached = if end > window { ReachedLimit::Concurrent } else { ReachedLimit::Window };
            let limited = RateLimited { limits: *limits, reached, retry_after: window.max(end) };
            return ClaimResult::Not(Claimed::RateLimited(limited));
        }
        let ready =
            |r: &&View| r.id.template() == claim.template.as_str() && matches!(r.state, ModelState::Ready(_));
        let own = self.records.iter().filter(ready).find(|r| r.node == claim.node.as_str());
        let Some(next) = own.or_else(|| self.records.iter().find(ready)).cloned() else {
            return ClaimResult::Not(Claimed::Empty);
        };
        let (ModelState::Ready(at), from) = (next.state, self.now) else { unreachable!() };
        let by = (limits.hourly + limits.daily + limits.concurrent > 0).then(|| visitor.clone());
        let state = ModelState::Assigned { at, token: claim.token, from, until: from + claim.ttl, by };
        self.tokens.push((claim.token, next.id.clone(), None));
        self.charge(claim.template.as_str(), visitor, *limits, Charge::At(from));
        let granted = self.put(&next.id, Some(state));
        self.unconfirmed.insert(next.id);
        ClaimResult::Instance(granted, self.quota(claim))
    }

    /// Returns when the current window of a network ends and how many charges are in it. Counts all charges again.
    fn window(&self, of_template: &str, of_network: &str, length: Duration) -> Option<(Millis, u32)> {
        let mut window: Option<(Millis, u32)> = None;
        for (template, network, charge) in &self.charges {
            if (template.as_str(), network.as_str()) == (of_template, of_network) {
                window = match (*charge, window) {
                    (Charge::At(at), Some((ends, used))) if at < ends => Some((ends, used + 1)),
                    (Charge::At(at), _) => Some((at + length, 1)),
                    (Charge::Undone(at), Some((ends, used))) if ends <= at + length => {
                        (used > 1).then_some((ends, used - 1))
                    }
                    (Charge::Undone(_), window) => window,
                };
            }
        }
        window.filter(|(ends, _)| self.now < *ends)
    }

    fn quota(&self, claim: &Claim) -> Option<Quota> {
        let RateLimits { hourly, daily, .. } = claim.limits;
        let mut quotas = Vec::new();
        for network in claim.visitor.networks() {
            for (length, limit) in [(HOUR, hourly), (DAY, daily)].into_iter().filter(|(_, limit)| *limit > 0)
            {
                let window = self.window(claim.template.as_str(), network.name, length);
                let (ends, used) = window.unwrap_or((self.now + length, 0));
                let remaining = limit * network.factor - used;
                quotas.push(Quota { limit, remaining, reset: ends.since(self.now) });
            }
        }
        quotas.sort_by_key(|q| (q.remaining, std::cmp::Reverse(q.reset)));
        quotas.first().copied()
    }
}
