//! What all servers agree on: which instance exists, who has it and until when.
//!
//! The trait speaks the domain. Each method is atomic: either all of it happened or none. Every implementation
//! passes the same conformance suite (`tests/conformance/store.rs`).

mod journal;
pub mod memory;
mod nodes;
pub mod valkey;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use nodes::{MAX_HEARTBEAT_GAP, Membership, NodeInfo, NodeStatus, PoolInfo, SUSPECT_AFTER};

use crate::clock::Millis;
use crate::instance::{
    ClaimToken, Counts, Endpoint, ExtendRefused, Instance, InstanceId, Limits, NodeId, RateLimited, Refused,
    TemplateName,
};

/// How long a claim may stay unconfirmed before a sweep ends its instance.
pub const UNCONFIRMED_FOR: Duration = Duration::from_secs(60);

/// A visitor as rate limits count them: an IPv4 address, or an IPv6 /64, in text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visitor(pub String);

/// A wish for one ready instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Of which template.
    pub template: TemplateName,
    /// Makes the claim idempotent: repeated with the same token, it gets the same instance and is charged once,
    /// whatever else the repetition says. A token gets one instance for good: see [`Store::claim`].
    pub token: ClaimToken,
    /// The node whose members are preferred.
    pub node: NodeId,
    /// Who is charged.
    pub visitor: Visitor,
    /// What the visitor may have.
    pub limits: Limits,
    /// How long the lease lasts.
    pub ttl: Duration,
}

/// What is left to a visitor in the tighter of the two windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Instances allowed in the window.
    pub limit: u32,
    /// Instances still allowed.
    pub remaining: u32,
    /// Time until the window ends.
    pub reset: Duration,
}

/// How a claim ended. Only `Granted` charged the visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The instance is the visitor's; its lease says for how long.
    Granted {
        /// The record, assigned.
        instance: Instance,
        /// What is left to the visitor; `None` without limits.
        quota: Option<Quota>,
    },
    /// The visitor has had enough.
    RateLimited(RateLimited),
    /// Nothing is ready; or the token has had its instance, and that has ended.
    Empty,
}

/// A place in the store's ordered stream of route events; later events have greater cursors. The first event has
/// cursor 1, so `Cursor(0)` means "from the beginning".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// A change that the proxy must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteChange {
    /// The instance became assigned, its deadline moved, it expired, or it was taken back and is ready: its record as it
    /// is now.
    Set(Instance),
    /// The instance is gone.
    Gone(InstanceId),
}

/// What followed a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEvents {
    /// The changes in order, each with its cursor; empty when none came in time. Not always all there are: go on
    /// from the last one's cursor. Applied in order, they lead to the same table as a new snapshot.
    Changes(Vec<(Cursor, RouteChange)>),
    /// The stream no longer holds what followed that cursor, or never gave out that cursor (it was another
    /// store's, or this one began anew); take a new snapshot.
    Gap,
}

/// Why the store did not do it. Nothing changed, except where `Unavailable` lost the answer of a step that was
/// done. Each step may then be repeated without harm: a claim gets its instance again, a sweep goes on, `insert`,
/// `offer`, `release`, `retire` and `fail` find that there is nothing left to do (`Exists`, `Refused`, `Unknown`).
/// Only `extend` would be done twice; its limit holds all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It did not answer within its deadline.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// No such instance, or no longer.
    #[error("no such instance")]
    Unknown,
    /// The rules do not allow the step; somebody else was first.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The lease could not be extended.
    #[error(transparent)]
    NotExtended(#[from] ExtendRefused),
    /// An instance of that id exists.
    #[error("that instance exists already")]
    Exists,
}

/// See the module. Readers see an instance whose deadline has passed as expired, whether swept or not.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes a new record. `Exists` when its id is known, in whatever state; `Refused` unless it is warming.
    async fn insert(&self, instance: Instance) -> Result<(), StoreError>;

    /// Warming to ready: last in the queue. `Unknown`, or `Refused` when it is not warming.
    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError>;

    /// Gives one ready instance to one visitor: the longest-ready of `claim.node`, else the longest-ready of all,
    /// leaving out nodes that are draining and those that have been silent for longer than [`UNHEARD`]; a node that
    /// never beat is not silent. Behind 64 that are left out, others may be overlooked. First the token is looked at, then the visitor's limits (`RateLimited` even when nothing is ready), then
    /// the queue. The visitor is charged in the same step, and only if the answer is a new instance; where there
    /// are no limits, nothing is counted.
    ///
    /// A token whose instance is assigned gets that instance, as it is now. Once that instance was released,
    /// expired or died, the token gets `Empty` and never a second instance: whoever repeats a claim so late lost
    /// the answer, not the instance. A token is known for at least [`RETENTION`](crate::instance::RETENTION)
    /// after the end of its instance, and after that it is as if new. A token is for one template only.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// These were delivered: the answers to their claims arrived whole. Until then a claim is unconfirmed: it may be
    /// taken back, and a sweep ends it after [`UNCONFIRMED_FOR`]. To extend an instance confirms it too, for whoever does
    /// so knows of it. What is not assigned, or confirmed already, is passed over.
    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError>;

    /// Undoes a claim whose answer nobody got a byte of. Its instance is ready again, before all others, and the
    /// visitor's charge is undone. Returns it as it is then. `Unknown` when the token has no assigned, unconfirmed
    /// instance whose deadline lies ahead. Either way, a token that has none gets none from then on: a claim that is
    /// still under way comes to nothing.
    async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError>;

    /// The record, `None` when there is none (any more).
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError>;

    /// Moves the deadline of an assigned instance by `by`, up to `max_ttl` from assignment; beyond that
    /// `NotExtended`, and nothing changes. `Unknown` unless it is assigned and its deadline lies ahead.
    async fn extend(&self, id: &InstanceId, by: Duration, max_ttl: Duration) -> Result<Instance, StoreError>;

    /// A visitor gives an instance back: the record is gone. Returns it as it was, and the cursor of the event
    /// that tells the proxies. `Unknown` unless it is assigned and its deadline lies ahead.
    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError>;

    /// The pool takes back what nobody has: warming or ready to gone. Returns it as it was. `Refused` when
    /// somebody has or had it, `Unknown` when there is no record.
    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Its app died: warming or ready to gone, assigned to expired with
    /// [`Ending::Failed`](crate::instance::Ending::Failed). Returns the record as it was before. `Unknown` for an
    /// expired one, which one whose deadline has passed is too; the sweep will return that one.
    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Turns assigned instances whose deadline has come into expired ones, those whose claim was unconfirmed for
    /// [`UNCONFIRMED_FOR`] into failed ones, for they are nobody's, and forgets both after their retention; at most
    /// `limit` such changes, those longest due first as far as one template goes. Returns those that *became* expired, as they became: each is returned by one sweep only. More is left to do while
    /// `next_deadline` is not in the future.
    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError>;

    /// When `sweep` will next have something to do, in the past when it has already.
    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError>;

    /// All records of a node, of every template and state, in no order. A record that is there from the call to
    /// its return is in it once; one that changes meanwhile is in it as before or as after.
    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError>;

    /// Living instances of a template, on one node or over all. Constant time.
    async fn counts(&self, template: &TemplateName, node: Option<&NodeId>) -> Result<Counts, StoreError>;

    /// A server says that it is there, and learns who else is. To be called about once a second.
    async fn heartbeat(&self, card: &NodeInfo) -> Result<Membership, StoreError>;

    /// All nodes on record, in the order of their names.
    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError>;

    /// From now on, nothing of this node is given out; or the end of that. Nothing else happens to its instances.
    /// `Unknown` when it is not on record.
    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError>;

    /// Ends all that a node has, if it has been silent for at least `silence`: what is warming or ready is gone, what
    /// visitors have is expired with [`Ending::Failed`](crate::instance::Ending::Failed), and last the node is no longer
    /// on record. Returns those that *became* expired, as they became: each is returned by one call only. `[]` when it is
    /// not silent, or not on record. A node that stops for good does it to itself, with no silence at all.
    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError>;

    /// Every record that a proxy must know (assigned and expired), exactly as it was at the cursor, from which
    /// changes follow: what happened up to the cursor is in the table, what happens later is in the stream.
    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError>;

    /// What happened after `cursor`, in order; waits up to `wait` for something to happen. May be given up at any
    /// time without loss. The stream tells of a passed deadline when that is swept, and of nothing that becomes
    /// warming or ready.
    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError>;

    /// Whether the next server knows who has what when this one has ended, however that was.
    fn outlives_the_server(&self) -> bool {
        false
    }

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

impl RouteChange {
    /// Brings a table of what proxies must know up to date.
    pub fn apply(self, table: &mut HashMap<InstanceId, Instance>) {
        match self {
            RouteChange::Set(record) if record.lease().is_none() => drop(table.remove(record.id())),
            RouteChange::Set(record) => drop(table.insert(record.id().clone(), record)),
            RouteChange::Gone(id) => drop(table.remove(&id)),
        }
    }
}

impl Claimed {
    /// The instance, if one was granted.
    pub fn instance(&self) -> Option<&Instance> {
        match self {
            Claimed::Granted { instance, .. } => Some(instance),
            Claimed::RateLimited(_) | Claimed::Empty => None,
        }
    }
}
