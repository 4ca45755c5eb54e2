//! The state machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClaimToken, Endpoint, ExtendRefused, InstanceId, Lease, NodeId};
use crate::clock::Millis;

/// How long an expired instance is still known, so that its visitor is told 410 and not 404.
pub const RETENTION: Duration = Duration::from_secs(600);

/// One copy of an app, from its first moment of warming until it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    id: InstanceId,
    node: NodeId,
    /// Which version of its template it was made from.
    revision: u64,
    generation: u64,
    created_at: Millis,
    life: State,
}

/// Where an instance is in its life. Read it freely; it changes only through [`Instance`]'s steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Being made; nobody may have it yet.
    Warming,
    /// Answers, and waits for a visitor.
    Ready {
        /// Where its app listens.
        endpoint: Endpoint,
    },
    /// One visitor's own.
    Assigned {
        /// Where its app listens.
        endpoint: Endpoint,
        /// The visitor's right to it.
        lease: Lease,
    },
    /// Was a visitor's, and is known for [`RETENTION`] more.
    Expired {
        /// The lease as it stood at the end.
        lease: Lease,
        /// When it ended.
        at: Millis,
        /// Why it ended.
        ending: EndReason,
    },
}

/// Why an instance that a visitor had has ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its time ran out.
    Expired,
    /// It died before its time.
    Failed,
}

/// A step that the rules do not allow from where the instance is; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an instance that is {from} cannot {step}")]
pub struct Refused {
    /// The state it is in.
    pub from: &'static str,
    /// What was asked.
    pub step: &'static str,
}

impl State {
    /// The state's name in the API.
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
    /// The name of the ending in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Expired => "expired",
            EndReason::Failed => "failed",
        }
    }
}

impl Instance {
    /// An instance as a store recorded it. Only for what was written down of one that came about by steps.
    pub(crate) fn recorded(
        id: InstanceId,
        node: NodeId,
        revision: u64,
        generation: u64,
        created_at: Millis,
        life: State,
    ) -> Self {
        Self { id, node, revision, generation, created_at, life }
    }

    /// A new instance that begins to warm now.
    pub fn warming(id: InstanceId, node: NodeId, revision: u64, now: Millis) -> Self {
        Self { id, node, revision, generation: 1, created_at: now, life: State::Warming }
    }

    /// Its id and host label.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// The node that runs it.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The version of its template that it was made from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Raised by every step.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it began to warm.
    pub fn created_at(&self) -> Millis {
        self.created_at
    }

    /// Where it is in its life.
    pub fn life(&self) -> &State {
        &self.life
    }

    /// The visitor's lease, running or ended.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.life {
            State::Assigned { lease, .. } | State::Expired { lease, .. } => Some(lease),
            State::Warming | State::Ready { .. } => None,
        }
    }

    fn step(&self, life: State) -> Self {
        Self { generation: self.generation + 1, life, ..self.clone() }
    }

    fn refuse(&self, step: &'static str) -> Refused {
        Refused { from: self.life.name(), step }
    }

    /// A step that needs a running lease and came too late: to every reader this instance is expired by now.
    fn too_late(&self, step: &'static str) -> Refused {
        Refused { from: "expired", step }
    }

    /// Warming to ready: its app answers at `endpoint`.
    pub fn offered(&self, endpoint: Endpoint) -> Result<Self, Refused> {
        match self.life {
            State::Warming => Ok(self.step(State::Ready { endpoint })),
            _ => Err(self.refuse("be offered")),
        }
    }

    /// Ready to assigned: one visitor has it for `ttl` from now.
    pub fn assigned(&self, token: ClaimToken, now: Millis, ttl: Duration) -> Result<Self, Refused> {
        match self.life {
            State::Ready { endpoint } => {
                Ok(self.step(State::Assigned { endpoint, lease: Lease::new(token, now, ttl) }))
            }
            _ => Err(self.refuse("be assigned")),
        }
    }

    /// Assigned to ready again: the answer that gave it to a visitor never began, so nobody knows of it. The store must
    /// know that much; here only the lease has to run.
    pub fn taken_back(&self, now: Millis) -> Result<Self, Refused> {
        match self.life {
            State::Assigned { endpoint, lease } if !lease.is_over(now) => {
                Ok(self.step(State::Ready { endpoint }))
            }
            State::Assigned { .. } => Err(self.too_late("be taken back")),
            _ => Err(self.refuse("be taken back")),
        }
    }

    /// Assigned, with a later deadline. `None` when no visitor has it (any more).
    pub fn extended(
        &self,
        by: Duration,
        max_ttl: Duration,
        now: Millis,
    ) -> Option<Result<Self, ExtendRefused>> {
        match self.life {
            State::Assigned { endpoint, lease } => Some(
                lease.extended(by, max_ttl, now).map(|lease| self.step(State::Assigned { endpoint, lease })),
            ),
            _ => None,
        }
    }

    /// Assigned to expired, once its deadline has come.
    pub fn expired(&self, now: Millis) -> Result<Self, Refused> {
        match self.life {
            State::Assigned { lease, .. } if lease.is_over(now) => {
                Ok(self.step(State::Expired { lease, at: lease.deadline(), ending: EndReason::Expired }))
            }
            _ => Err(self.refuse("expire")),
        }
    }

    /// Its app died. An assigned one is kept as expired, so that its visitor is told; any other is gone
    /// (`None`). Once the deadline has come the lease has ended by itself, and a later death is refused: it must
    /// not turn what readers saw as expired into failed.
    pub fn failed(&self, now: Millis) -> Result<Option<Self>, Refused> {
        match self.life {
            State::Warming | State::Ready { .. } => Ok(None),
            State::Assigned { lease, .. } if !lease.is_over(now) => {
                Ok(Some(self.step(State::Expired { lease, at: now, ending: EndReason::Failed })))
            }
            State::Assigned { .. } | State::Expired { .. } => Err(self.too_late("fail")),
        }
    }

    /// Whether its visitor may give it back now; it is gone afterwards.
    pub fn may_be_released(&self, now: Millis) -> Result<(), Refused> {
        match self.life {
            State::Assigned { lease, .. } if !lease.is_over(now) => Ok(()),
            State::Assigned { .. } => Err(self.too_late("be released")),
            _ => Err(self.refuse("be released")),
        }
    }

    /// Whether the pool may take it back unused, to shrink or to stop; it is gone afterwards.
    pub fn may_be_retired(&self) -> Result<(), Refused> {
        match self.life {
            State::Warming | State::Ready { .. } => Ok(()),
            _ => Err(self.refuse("be retired")),
        }
    }

    /// Whether the record of an expired instance has served its time.
    pub fn may_be_forgotten(&self, now: Millis) -> bool {
        matches!(self.life, State::Expired { at, .. } if now >= at + RETENTION)
    }

    /// The same record as a reader sees it at `now`: an assigned instance whose deadline has passed is expired,
    /// whether or not anybody has swept it yet.
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
    fn a_life_runs_from_warming_to_expired_and_each_step_raises_the_generation() {
        let end = assigned().expired(Millis(1_020)).unwrap();
        assert_eq!(end.generation(), 4);
        assert_eq!(end.life().name(), "expired");
        assert!(!end.may_be_forgotten(Millis(1_020)));
        assert!(end.may_be_forgotten(Millis(1_020) + RETENTION));
    }

    #[test]
    fn nothing_is_assigned_twice() {
        assert!(assigned().assigned(ClaimToken(2), Millis(30), Duration::from_secs(1)).is_err());
    }

    #[test]
    fn what_nobody_was_told_of_is_taken_back_while_its_lease_runs_and_can_be_assigned_again() {
        let back = assigned().taken_back(Millis(1_019)).unwrap();
        assert_eq!((back.life(), back.generation()), (&State::Ready { endpoint: endpoint() }, 4));
        assert!(back.assigned(ClaimToken(2), Millis(30), Duration::from_secs(1)).is_ok());
        assert_eq!(assigned().taken_back(Millis(1_020)).unwrap_err().from, "expired");
        assert!(back.taken_back(Millis(30)).is_err());
    }

    #[test]
    fn an_instance_does_not_expire_before_its_deadline() {
        assert!(assigned().expired(Millis(1_019)).is_err());
    }

    #[test]
    fn only_an_assigned_instance_leaves_a_trace_when_it_dies() {
        assert_eq!(fresh().failed(Millis(1)).unwrap(), None);
        let kept = assigned().failed(Millis(30)).unwrap().unwrap();
        assert!(matches!(kept.life(), State::Expired { ending: EndReason::Failed, at: Millis(30), .. }));
        assert!(kept.failed(Millis(31)).is_err());
    }

    #[test]
    fn a_death_after_the_deadline_changes_nothing() {
        assert!(assigned().failed(Millis(1_019)).is_ok());
        let refused = assigned().failed(Millis(1_020)).unwrap_err();
        assert_eq!(refused.to_string(), "an instance that is expired cannot fail");
    }

    #[test]
    fn a_reader_sees_an_overdue_instance_just_as_a_sweep_will_leave_it() {
        let it = assigned();
        assert_eq!(it.clone().seen_at(Millis(1_019)), it);
        assert_eq!(it.clone().seen_at(Millis(5_000)), it.expired(Millis(9_000)).unwrap());
    }

    #[test]
    fn a_record_reads_back_from_json_unchanged() {
        let far: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
        let token = ClaimToken(u128::MAX);
        let held =
            fresh().offered(far.into()).unwrap().assigned(token, Millis(20), Duration::from_secs(1)).unwrap();
        for record in [fresh(), held.clone(), held.failed(Millis(30)).unwrap().unwrap()] {
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), record);
        }
    }

    #[test]
    fn a_release_after_the_deadline_is_refused() {
        assert!(assigned().may_be_released(Millis(1_019)).is_ok());
        assert_eq!(assigned().may_be_released(Millis(1_020)).unwrap_err().from, "expired");
        assert!(fresh().may_be_released(Millis(0)).is_err());
    }
}
