//! What all servers agree on: which instance exists, who has it and until when.
//!
//! The trait speaks the domain. Each method is atomic: either all of it happened or none. Every implementation
//! passes the same conformance suite (`tests/conformance/store.rs`).

pub mod memory;

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Millis;
use crate::instance::{
    ClaimToken, ExtendRefused, Instance, InstanceId, Limits, NodeId, RateLimited, Refused, TemplateName,
};

/// A visitor as rate limits count them: an IPv4 address, or an IPv6 /64, in text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visitor(pub String);

/// A wish for one ready instance.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Of which template.
    pub template: TemplateName,
    /// Makes the claim idempotent: repeated with the same token, it gets the same instance and is charged once.
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
    /// Nothing is ready.
    Empty,
}

/// How many instances of a template there are in each living state, over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Being made.
    pub warming: usize,
    /// Waiting for a visitor.
    pub ready: usize,
    /// In a visitor's hands.
    pub assigned: usize,
}

/// A place in the store's ordered stream of route events; later events have greater cursors. The first event has
/// cursor 1, so `Cursor(0)` means "from the beginning".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// A change that the proxy must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// The instance became assigned, its deadline moved, or it expired: its record as it is now.
    Set(Instance),
    /// The instance is gone.
    Gone(InstanceId),
}

/// What followed a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEvents {
    /// The changes in order, each with its cursor; empty when none came in time.
    Changes(Vec<(Cursor, RouteChange)>),
    /// The stream no longer holds what followed that cursor; take a new snapshot.
    Gap,
}

/// Why the store did not do it. Nothing changed, except where `Unavailable` lost the answer of a step that was
/// done; every step may be repeated.
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
    /// Takes a new record, which must be warming. Fails with `Exists`.
    async fn insert(&self, instance: Instance) -> Result<(), StoreError>;

    /// Warming to ready.
    async fn offer(&self, id: &InstanceId, endpoint: SocketAddr) -> Result<Instance, StoreError>;

    /// Gives one ready instance, the longest-ready of `claim.node` first, to one visitor.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// The record, `None` when there is none (any more).
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError>;

    /// Moves the deadline of an assigned instance by `by`, up to `max_ttl` from assignment. `Unknown` unless it
    /// is assigned.
    async fn extend(&self, id: &InstanceId, by: Duration, max_ttl: Duration) -> Result<Instance, StoreError>;

    /// A visitor gives an instance back: the record is gone. Returns it as it was, and the cursor of the event
    /// that tells the proxies. `Unknown` unless it is assigned and its deadline lies ahead.
    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError>;

    /// The pool takes back what nobody has: warming or ready to gone. `Refused` when somebody has it.
    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Its app died: warming or ready to gone, assigned to expired with [`crate::instance::Ending::Failed`]. Returns the record as
    /// it was before. `Unknown` for an expired one.
    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Turns assigned instances whose deadline has come into expired ones, and forgets expired ones after their
    /// retention; at most `limit` records. Returns those that *became* expired, as they are now.
    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError>;

    /// When `sweep` will next have something to do.
    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError>;

    /// All records of a node, in no order.
    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError>;

    /// Living instances of a template. Constant time.
    async fn counts(&self, template: &TemplateName) -> Result<Counts, StoreError>;

    /// Every record that a proxy must know (assigned and expired), and the cursor from which changes follow.
    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError>;

    /// What happened after `cursor`, in order; waits up to `wait` for something to happen.
    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
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
