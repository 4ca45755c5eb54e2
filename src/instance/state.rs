//! The record of an instance and the transitions between its states.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClaimToken, Endpoint, ExtendRefused, InstanceId, Lease, NodeId, Visitor};
use crate::clock::Millis;

/// How long the record of an expired instance is kept, so that its visitor gets 410 and not 404.
pub const RETENTION: Duration = Duration::from_secs(600);

/// One running app of a template, from the start of its warming until its record is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    id: InstanceId,
    node: NodeId,
    /// The revision of the template that the instance was made from.
    revision: u64,
    generation: u64,
    created_at: Millis,
    // The name in journals of all versions.
    #[serde(rename = "life")]
    state: State,
}

/// The state of an instance. It changes only through the methods of [`Instance`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The instance is being made; no visitor may have it yet.
    Warming,
    /// The app answers, and the instance waits for a visitor.
    Ready {
        /// Where the app listens.
        endpoint: Endpoint,
    },
    /// One visitor has the instance.
    Assigned {
        /// Where the app listens.
        endpoint: Endpoint,
        /// The visitor's time with the instance.
        lease: Lease,
        /// The visitor whom limits count. `None` if the claim had no limits, and in records of older versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        visitor: Option<Visitor>,
    },
    /// A visitor had the instance. Its record is kept for [`RETENTION`].
    Expired {
        /// The lease as it was when the instance ended.
        lease: Lease,
        /// When the instance ended.
        at: Millis,
        /// Why the instance ended.
        // The name in journals of all versions.
        #[serde(rename = "ending")]
        reason: EndReason,
    },
}

/// Why an assigned instance ended without its visitor asking for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The deadline came.
    Expired,
    /// The app died before the deadline.
    Failed,
    /// The claim was never confirmed, so perhaps its visitor never knew of the instance.
    Unconfirmed,
    /// The node is gone, and the instance with it.
    NodeLost,
}

/// The state of the instance does not allow the transition; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an instance that is {from} cannot {step}")]
pub struct TransitionRefused {
    /// The name of the state that the instance is in.
    pub from: &'static str,
    /// The refused transition, as a verb phrase that completes "cannot ...".
    pub step: &'static str,
}

impl State {
    /// Returns the state's name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            State::Warming => "warming",
            State::Ready { .. } => "ready",
            State::Assigned { .. } => "assigned",
            State::Expired { .. } => "expired",
        }
    }
}

impl EndReason {
    /// Returns the reason's name in the API. It distinguishes only whether the deadline came: clients rely on these two
    /// names.
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Expired => "expired",
            EndReason::Failed | EndReason::Unconfirmed | EndReason::NodeLost => "failed",
        }
    }
}

impl Instance {
    /// Rebuilds an instance from a store's record. Only for records of instances that came about by transitions.
    pub(crate) fn recorded(
        id: InstanceId,
        node: NodeId,
        revision: u64,
        generation: u64,
        created_at: Millis,
        state: State,
    ) -> Self {
        Self { id, node, revision, generation, created_at, state }
    }

    /// Returns a new instance whose warming begins now.
    pub fn warming(id: InstanceId, node: NodeId, revision: u64, now: Millis) -> Self {
        Self { id, node, revision, generation: 1, created_at: now, state: State::Warming }
    }

    /// Returns the instance's id, which is also its host label.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Returns the name of the node that runs the instance.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Returns the revision of the template that the instance was made from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the generation, which every transition raises by one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns when the warming began.
    pub fn created_at(&self) -> Millis {
        self.created_at
    }

    /// Returns the state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the visitor's lease, running or ended; `None` before a visitor had the instance.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Assigned { lease, .. } | State::Expired { lease, .. } => Some(lease),
            State::Warming | State::Ready { .. } => None,
        }
    }

    /// Returns the visitor who has the instance, if limits count the visitor.
    pub fn visitor(&self) -> Option<&Visitor> {
        match &self.state {
            State::Assigned { visitor, .. } => visitor.as_ref(),
            State::Warming | State::Ready { .. } | State::Expired { .. } => None,
        }
    }

    fn with_state(&self, state: State) -> Self {
        Self { generation: self.generation + 1, state, ..self.clone() }
    }

    fn refuse(&self, step: &'static str) -> TransitionRefused {
        TransitionRefused { from: self.state.name(), step }
    }

    /// Refuses a transition that needs a running lease and came after the deadline: every reader already sees the
    /// instance as expired.
    fn refuse_as_expired(&self, step: &'static str) -> TransitionRefused {
        TransitionRefused { from: "expired", step }
    }

    /// Offer: warming to ready, because the app answers at `endpoint`.
    ///
    /// # Errors
    /// The instance is not warming.
    pub fn offered(&self, endpoint: Endpoint) -> Result<Self, TransitionRefused> {
        match self.state {
            State::Warming => Ok(self.with_state(State::Ready { endpoint })),
            _ => Err(self.refuse("be offered")),
        }
    }

    /// Withdraw: ready to warming, because the app no longer passes its ready check. No visitor may have the instance
    /// until it is offered again.
    ///
    /// # Errors
    /// The instance is not ready.
    pub fn withdrawn(&self) -> Result<Self, TransitionRefused> {
        match self.state {
            State::Ready { .. } => Ok(self.with_state(State::Warming)),
            _ => Err(self.refuse("be withdrawn")),
        }
    }

    /// Claim without limits: ready to assigned. One visitor, whom no limit counts, has the instance for `ttl` from
    /// `now`.
    ///
    /// # Errors
    /// The instance is not ready.
    pub fn assigned(&self, token: ClaimToken, now: Millis, ttl: Duration) -> Result<Self, TransitionRefused> {
        self.claimed(Lease::new(token, now, ttl), None)
    }

    /// Claim with limits: ready to assigned. This visitor has the instance for `ttl` from `now`.
    ///
    /// # Errors
    /// The instance is not ready.
    pub fn assigned_to(
        &self,
        visitor: &Visitor,
        token: ClaimToken,
        now: Millis,
        ttl: Duration,
    ) -> Result<Self, TransitionRefused> {
        self.claimed(Lease::new(token, now, ttl), Some(visitor.clone()))
    }

    fn claimed(&self, lease: Lease, visitor: Option<Visitor>) -> Result<Self, TransitionRefused> {
        match self.state {
            State::Ready { endpoint } => Ok(self.with_state(State::Assigned { endpoint, lease, visitor })),
            _ => Err(self.refuse("be assigned")),
        }
    }

    /// Undo of a claim: assigned to ready, because no byte of the claim's answer was attempted and so no client knows of
    /// the instance. The store checks that; this method checks only that the lease runs.
    ///
    /// # Errors
    /// The instance is not assigned, or its deadline has passed.
    pub fn claim_undone(&self, now: Millis) -> Result<Self, TransitionRefused> {
        const STEP: &str = "have its claim undone";
        match self.state {
            State::Assigned { endpoint, lease, .. } if !lease.is_over(now) => {
                Ok(self.with_state(State::Ready { endpoint }))
            }
            State::Assigned { .. } => Err(self.refuse_as_expired(STEP)),
            _ => Err(self.refuse(STEP)),
        }
    }

    /// Extend: assigned, with a deadline that is later by `by`. `None` when no visitor has the instance.
    ///
    /// # Errors
    /// As [`Lease::extended`]; inside the `Some`.
    pub fn extended(
        &self,
        by: Duration,
        max_ttl: Duration,
        now: Millis,
    ) -> Option<Result<Self, ExtendRefused>> {
        let State::Assigned { endpoint, lease, ref visitor } = self.state else { return None };
        let extended = lease.extended(by, max_ttl, now);
        Some(
            extended
                .map(|lease| self.with_state(State::Assigned { endpoint, lease, visitor: visitor.clone() })),
        )
    }

    /// Expire: assigned to expired, once the deadline has come.
    ///
    /// # Errors
    /// The instance is not assigned, or its deadline lies ahead.
    pub fn expired(&self, now: Millis) -> Result<Self, TransitionRefused> {
        match self.state {
            State::Assigned { lease, .. } if lease.is_over(now) => {
                let reason = EndReason::Expired;
                Ok(self.with_state(State::Expired { lease, at: lease.deadline(), reason }))
            }
            _ => Err(self.refuse("expire")),
        }
    }

    /// Fail: the app died. An assigned instance becomes expired, so that its visitor learns of it; an instance that no
    /// visitor had is gone (`None`).
    ///
    /// # Errors
    /// The deadline has passed. The lease ended at its deadline, and a later death must not turn into "failed" what
    /// readers have seen as expired.
    pub fn failed(&self, now: Millis) -> Result<Option<Self>, TransitionRefused> {
        self.ended_early(EndReason::Failed, "fail", now)
    }

    /// Evict: the node is gone. The rule is that of [`Instance::failed`].
    ///
    /// # Errors
    /// As for [`Instance::failed`].
    pub fn evicted(&self, now: Millis) -> Result<Option<Self>, TransitionRefused> {
        self.ended_early(EndReason::NodeLost, "be evicted", now)
    }

    fn ended_early(
        &self,
        reason: EndReason,
        step: &'static str,
        now: Millis,
    ) -> Result<Option<Self>, TransitionRefused> {
        match self.state {
            State::Warming | State::Ready { .. } => Ok(None),
            State::Assigned { lease, .. } if !lease.is_over(now) => {
                Ok(Some(self.with_state(State::Expired { lease, at: now, reason })))
            }
            State::Assigned { .. } | State::Expired { .. } => Err(self.refuse_as_expired(step)),
        }
    }

    /// Lapse: assigned to expired, because the claim was not confirmed in time. The store checks that; this method
    /// checks only that the lease runs.
    ///
    /// # Errors
    /// The instance is not assigned, or its deadline has passed.
    pub fn claim_lapsed(&self, now: Millis) -> Result<Self, TransitionRefused> {
        const STEP: &str = "have its claim lapse";
        match self.state {
            State::Assigned { lease, .. } if !lease.is_over(now) => {
                Ok(self.with_state(State::Expired { lease, at: now, reason: EndReason::Unconfirmed }))
            }
            State::Assigned { .. } => Err(self.refuse_as_expired(STEP)),
            _ => Err(self.refuse(STEP)),
        }
    }

    /// Checks whether the visitor may release the instance, which is gone afterwards.
    ///
    /// # Errors
    /// The instance is not assigned, or its deadline has passed.
    pub fn may_be_released(&self, now: Millis) -> Result<(), TransitionRefused> {
        match self.state {
            State::Assigned { lease, .. } if !lease.is_over(now) => Ok(()),
            State::Assigned { .. } => Err(self.refuse_as_expired("be released")),
            _ => Err(self.refuse("be released")),
        }
    }

    /// Checks whether the pool may retire the instance unused, to shrink or to stop. It is gone afterwards.
    ///
    /// # Errors
    /// A visitor has or had the instance.
    pub fn may_be_retired(&self) -> Result<(), TransitionRefused> {
        match self.state {
            State::Warming | State::Ready { .. } => Ok(()),
            _ => Err(self.refuse("be retired")),
        }
    }

    /// Returns whether the record may be deleted: the instance is expired, and [`RETENTION`] has passed since its end.
    pub fn may_be_forgotten(&self, now: Millis) -> bool {
        matches!(self.state, State::Expired { at, .. } if now >= at + RETENTION)
    }

    /// Returns the record as a reader sees it at `now`: an assigned instance whose deadline has passed is expired,
    /// whether or not a sweep has recorded that yet.
    pub fn seen_at(self, now: Millis) -> Self {
        self.expired(now).unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::instance::TemplateName;

    fn fresh() -> Instance {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        Instance::warming(id, NodeId::random(), 7, Millis(10))
    }
    fn endpoint() -> Endpoint {
        ([127, 0, 0, 1], 4000).into()
    }
    fn assigned() -> Instance {
        fresh()
            .offered(endpoint())
            .unwrap()
            .assigned(ClaimToken(1), Millis(20), Duration::from_secs(1))
            .unwrap()
    }

    #[test]
    fn an_instance_goes_from_warming_to_expired_and_each_transition_raises_the_generation() {
        let end = assigned().expired(Millis(1_020)).unwrap();
        assert_eq!(end.generation(), 4);
        assert_eq!(end.state().name(), "expired");
        assert!(!end.may_be_forgotten(Millis(1_020)));
        assert!(end.may_be_forgotten(Millis(1_020) + RETENTION));
    }

    #[test]
    fn an_assigned_instance_is_not_assigned_again() {
        assert!(assigned().assigned(ClaimToken(2), Millis(30), Duration::from_secs(1)).is_err());
    }

    #[test]
    fn a_claim_is_undone_while_its_lease_runs_and_the_instance_can_be_assigned_again() {
        let ready = assigned().claim_undone(Millis(1_019)).unwrap();
        assert_eq!((ready.state(), ready.generation()), (&State::Ready { endpoint: endpoint() }, 4));
        assert!(ready.assigned(ClaimToken(2), Millis(30), Duration::from_secs(1)).is_ok());
        assert_eq!(assigned().claim_undone(Millis(1_020)).unwrap_err().from, "expired");
        assert!(ready.claim_undone(Millis(30)).is_err());
    }

    #[test]
    fn an_instance_does_not_expire_before_its_deadline() {
        assert!(assigned().expired(Millis(1_019)).is_err());
    }

    #[test]
    fn the_record_is_kept_only_of_an_assigned_instance_that_fails() {
        assert_eq!(fresh().failed(Millis(1)).unwrap(), None);
        let expired = assigned().failed(Millis(30)).unwrap().unwrap();
        assert!(matches!(expired.state(), State::Expired { reason: EndReason::Failed, at: Millis(30), .. }));
        assert!(expired.failed(Millis(31)).is_err());
    }

    #[test]
    fn a_failure_after_the_deadline_changes_nothing() {
        assert!(assigned().failed(Millis(1_019)).is_ok());
        let refused = assigned().failed(Millis(1_020)).unwrap_err();
        assert_eq!(refused.to_string(), "an instance that is expired cannot fail");
    }

    #[test]
    fn a_reader_sees_an_overdue_instance_as_a_sweep_will_record_it() {
        let overdue = assigned();
        assert_eq!(overdue.clone().seen_at(Millis(1_019)), overdue);
        assert_eq!(overdue.clone().seen_at(Millis(5_000)), overdue.expired(Millis(9_000)).unwrap());
    }

    #[test]
    fn a_record_reads_back_from_json_unchanged() {
        let endpoint: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
        let token = ClaimToken(u128::MAX);
        let assigned = fresh()
            .offered(endpoint.into())
            .unwrap()
            .assigned(token, Millis(20), Duration::from_secs(1))
            .unwrap();
        let ready = fresh().offered(endpoint.into()).unwrap();
        let visitor = Visitor::new("2001:db8::/64").within(4, "2001:db8::/56");
        let counted = ready.assigned_to(&visitor, token, Millis(20), Duration::from_secs(1)).unwrap();
        assert_eq!(counted.visitor(), Some(&visitor));
        for record in [fresh(), assigned.clone(), counted, assigned.failed(Millis(30)).unwrap().unwrap()] {
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), record);
        }
    }

    #[test]
    fn the_visitor_stays_with_the_lease_through_extensions_and_is_forgotten_at_its_end() {
        let (visitor, second) = (Visitor::new("192.0.2.1"), Duration::from_secs(1));
        let ready = fresh().offered(endpoint()).unwrap();
        let held = ready.assigned_to(&visitor, ClaimToken(1), Millis(20), second).unwrap();
        let longer = held.extended(second, 9 * second, Millis(30)).unwrap().unwrap();
        assert_eq!(longer.visitor(), Some(&visitor));
        assert_eq!(held.claim_undone(Millis(30)).unwrap().visitor(), None);
        assert_eq!(longer.failed(Millis(30)).unwrap().unwrap().visitor(), None);
        assert!(!format!("{:?}", held.expired(Millis(1_020)).unwrap()).contains("192.0.2.1"));
    }

    #[test]
    fn a_release_after_the_deadline_is_refused() {
        assert!(assigned().may_be_released(Millis(1_019)).is_ok());
        assert_eq!(assigned().may_be_released(Millis(1_020)).unwrap_err().from, "expired");
        assert!(fresh().may_be_released(Millis(0)).is_err());
    }
}
