//! A reference model of a store: the same rules, as simply as they can be written, with lists that are searched from
//! end to end.

use std::collections::HashSet;
use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::instance::{
    ClaimToken, EndReason, Endpoint, ExtendRefused, Instance, InstanceId, RateLimited, RateLimits, State,
    TransitionRefused,
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
    Assigned { at: Endpoint, token: ClaimToken, from: Millis, until: Millis },
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
    /// The charges and the refunds, in order.
    charges: Vec<(String, Visitor, Charge)>,
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
    let state = match *of.state() {
        State::Warming => ModelState::Warming,
        State::Ready { endpoint } => ModelState::Ready(endpoint),
        State::Assigned { endpoint, lease } => ModelState::Assigned {
            at: endpoint,
            token: lease.token(),
            from: lease.assigned_at(),
            until: lease.deadline(),
        },
        State::Expired { lease, at, reason } => ModelState::Expired {
            token: lease.token(),
            from: lease.assigned_at(),
            until: lease.deadline(),
            ended: at,
            reason,
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

    pub(crate) fn extend(
        &mut self,
        id: &InstanceId,
        by: Duration,
        max: Duration,
    ) -> Result<View, StoreError> {
        let ModelState::Assigned { at, token, from, until } = self.find(id)?.state else {
            return Err(StoreError::Unknown);
        };
        if until + by > from + max {
            return Err(StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(max)));
        }
        Ok(self.put(id, Some(ModelState::Assigned { at, token, from, until: until + by })))
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
        if claim.limits.hourly + claim.limits.daily > 0 {
            let charge = (claim.template.to_string(), claim.visitor.clone(), Charge::Undone(from));
            self.charges.push(charge);
        }
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
        let RateLimits { hourly, daily } = claim.limits;
        let waits = [(HOUR, hourly), (DAY, daily)].map(|(length, limit)| match self.window(claim, length) {
            Some((ends, used)) if limit > 0 && used >= limit => ends.since(self.now),
            _ => Duration::ZERO,
        });
        let retry_after = waits[0].max(waits[1]);
        if !retry_after.is_zero() {
            return ClaimResult::Not(Claimed::RateLimited(RateLimited { limits: claim.limits, retry_after }));
        }
        let ready =
            |r: &&View| r.id.template() == claim.template.as_str() && matches!(r.state, ModelState::Ready(_));
        let own = self.records.iter().filter(ready).find(|r| r.node == claim.node.as_str());
        let Some(next) = own.or_else(|| self.records.iter().find(ready)).cloned() else {
            return ClaimResult::Not(Claimed::Empty);
        };
        let (ModelState::Ready(at), from) = (next.state, self.now) else { unreachable!() };
        let state = ModelState::Assigned { at, token: claim.token, from, until: from + claim.ttl };
        self.tokens.push((claim.token, next.id.clone(), None));
        if hourly + daily > 0 {
            self.charges.push((claim.template.to_string(), claim.visitor.clone(), Charge::At(from)));
        }
        let granted = self.put(&next.id, Some(state));
        self.unconfirmed.insert(next.id);
        ClaimResult::Instance(granted, self.quota(claim))
    }

    /// Returns when the visitor's current window ends and how many charges are in it. Counts all charges again.
    fn window(&self, claim: &Claim, length: Duration) -> Option<(Millis, u32)> {
        let mut window: Option<(Millis, u32)> = None;
        for (template, visitor, charge) in &self.charges {
            if (template.as_str(), visitor) == (claim.template.as_str(), &claim.visitor) {
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
        let RateLimits { hourly, daily } = claim.limits;
        let mut quotas = Vec::new();
        for (length, limit) in [(HOUR, hourly), (DAY, daily)] {
            let (ends, used) = self.window(claim, length).unwrap_or((self.now + length, 0));
            if limit > 0 {
                quotas.push(Quota { limit, remaining: limit - used, reset: ends.since(self.now) });
            }
        }
        quotas.sort_by_key(|q| (q.remaining, std::cmp::Reverse(q.reset)));
        quotas.first().copied()
    }
}
