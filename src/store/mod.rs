//! What all nodes agree on: which instance exists, which visitor it is assigned to, and until when.
//!
//! [`Store`] is the interface, in the domain's words. Each method is atomic: all of it happens or none. Each
//! implementation passes the same conformance suite (`tests/suites/store`).
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the trait |
//! | `claim.rs`, `route_events.rs`, `nodes.rs`, `error.rs` | what its methods take and return |
//! | `deadline.rs` | a store behind a network, whose calls have a deadline |
//! | `memory/` | the embedded store: one node, in memory |
//! | `valkey/` | the shared store: many nodes, on Valkey |
//! | `journal.rs` | the file of visitors' instances that lets both outlive the server process |
//!
//! To change the trait, change both implementations, the conformance suite, and its reference model
//! (`tests/suites/store/reference_model.rs`).

mod claim;
mod deadline;
mod error;
mod journal;
pub mod memory;
mod nodes;
mod route_events;
pub mod valkey;

use std::time::Duration;

use async_trait::async_trait;

pub use claim::{CONFIRM_TIMEOUT, Claim, Claimed, Quota};
pub use deadline::{DeadlineStore, within};
pub use error::StoreError;
pub use nodes::{
    EVICTED_RETENTION, HeartbeatReply, MAX_HEARTBEAT_GAP, NodeInfo, NodeStatus, PoolInfo, SUSPECT_AFTER,
};
pub use route_events::{Cursor, RouteChange, RouteEvents};

use crate::clock::Millis;
pub use crate::instance::Visitor;
use crate::instance::{Endpoint, Instance, InstanceId, NodeId, RateLimits, StateCounts, TemplateName};

/// The records of all instances and nodes, and the transitions between their states.
///
/// Each call ends in a bounded time. A store behind a network is opened as a [`DeadlineStore`].
///
/// A reader sees an instance whose deadline has passed as expired, whether a sweep has ended it or not. Any method may
/// return [`StoreError::Unavailable`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Records a new instance, which must be warming.
    ///
    /// # Errors
    /// `Exists` when the store knows the id, in whatever state; `Refused` unless the instance is warming.
    async fn insert(&self, instance: Instance) -> Result<(), StoreError>;

    /// Makes a warming instance ready: the last in its template's queue of ready instances.
    ///
    /// # Errors
    /// `Unknown` without a record; `Refused` when the instance is not warming.
    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError>;

    /// Makes a ready instance warming: no claim gets it until it is offered again. Returns the new record.
    ///
    /// # Errors
    /// `Unknown` without a record; `Refused` when the instance is not ready.
    async fn withdraw(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Assigns one ready instance to one visitor.
    ///
    /// The instance is the longest-ready of `claim.node`, else the longest-ready of all nodes that neither drain nor
    /// have been silent for longer than [`SUSPECT_AFTER`]; a node that never sent a heartbeat is not silent. Where 64
    /// ready instances at the front of the queue are skipped for that reason, the rest may not be looked at.
    ///
    /// The token is checked first, then the visitor's limits (`RateLimited` even when nothing is ready), then the
    /// queue. The visitor is charged in the same step, and only if the answer is a new instance; without limits nothing
    /// is counted. A limit holds in each of the visitor's networks. An instance counts as one at a time until its
    /// deadline, or until it ends before: released, failed, unconfirmed for too long, or its claim undone.
    ///
    /// A token whose instance is assigned gets that instance, as it is now. Once that instance was released, expired or
    /// died, the token gets `Empty` and never a second instance: a client that repeats a claim so late lost the answer,
    /// not the instance. The store knows a token for at least [`RETENTION`](crate::instance::RETENTION) after the end
    /// of its instance; after that the token counts as new. A token is for one template only.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// Confirms that the answers to these instances' claims were delivered whole.
    ///
    /// Until then a claim is unconfirmed: it may be undone, and a sweep ends its instance after [`CONFIRM_TIMEOUT`]. To
    /// extend an instance confirms its claim too, because only a client that got the answer can extend it. Instances
    /// that are not assigned, or are confirmed already, are passed over.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError>;

    /// Undoes a claim of whose answer no byte was attempted, and returns its instance, which is ready again.
    ///
    /// The instance becomes the first in the queue, and the visitor's charge is undone. In any case a token without an
    /// instance never gets one from then on: a claim with it that is still on its way gets `Empty`.
    ///
    /// # Errors
    /// `Unknown` when the token has no assigned, unconfirmed instance whose deadline lies ahead.
    async fn undo_claim(&self, claim: &Claim) -> Result<Instance, StoreError>;

    /// Returns the record, or `None` when the store has none (any more).
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError>;

    /// Moves the deadline of an assigned instance by `by`, up to `max_ttl` from its assignment.
    ///
    /// In the same step the visitor for whom the instance was claimed, not the one who asks for the extension, is charged
    /// as for one more instance. An extension without hourly and daily limits, or of a claim without limits, is not
    /// charged.
    ///
    /// # Errors
    /// In this order, and nothing changes: `Unknown` unless the instance is assigned and its deadline lies ahead;
    /// `NotExtended` beyond `max_ttl`, or where the visitor has reached the hourly or the daily limit.
    async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max_ttl: Duration,
        limits: RateLimits,
    ) -> Result<Instance, StoreError>;

    /// Removes an instance that its visitor returns. Returns the record as it was, and the cursor of the route event.
    ///
    /// # Errors
    /// `Unknown` unless the instance is assigned and its deadline lies ahead.
    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError>;

    /// Removes an instance that no visitor has: warming or ready to gone. Returns the record as it was.
    ///
    /// # Errors
    /// `Refused` when a visitor has or had the instance, `Unknown` without a record.
    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Ends an instance whose app died: warming or ready to gone, assigned to expired with
    /// [`EndReason::Failed`](crate::instance::EndReason::Failed). Returns the record as it was before.
    ///
    /// # Errors
    /// `Unknown` for an expired instance, which includes one whose deadline has passed: the sweep returns that one.
    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError>;

    /// Does what is due, and returns the instances that *became* expired, as they became: each is returned by one sweep
    /// only.
    ///
    /// Due are assigned instances whose deadline has passed, which expire; those whose claim was unconfirmed for
    /// [`CONFIRM_TIMEOUT`], which expire as [`EndReason::Unconfirmed`](crate::instance::EndReason::Unconfirmed),
    /// because no visitor knows of them; and expired ones of either kind after their retention, which are removed. At
    /// most `limit` records change, the longest due first within one template. More is due while `next_deadline` is not
    /// in the future.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError>;

    /// Returns when `sweep` will next have something to do; in the past when it has something to do now.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError>;

    /// Returns all records of a node, of every template and state, in no order.
    ///
    /// A record that exists from the call to its return is listed once; one that changes meanwhile is listed as it was
    /// before or after the change.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError>;

    /// StateCounts the instances of a template that have not ended, on one node or on all. Takes constant time.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn counts(&self, template: &TemplateName, node: Option<&NodeId>)
    -> Result<StateCounts, StoreError>;

    /// Records that a node is alive, and returns which nodes there are. A node calls it about once a second.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn heartbeat(&self, info: &NodeInfo) -> Result<HeartbeatReply, StoreError>;

    /// Returns all nodes on record, in the order of their names.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError>;

    /// Marks a node as draining, or removes the mark. No claim gets an instance of a draining node; nothing else
    /// happens to its instances.
    ///
    /// # Errors
    /// `Unknown` when the node is not on record.
    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError>;

    /// Ends all instances of a node and removes the node from the record, if it has been silent for at least `silence`.
    ///
    /// Warming and ready instances are removed, assigned ones expire with
    /// [`EndReason::NodeLost`](crate::instance::EndReason::NodeLost), and the node is removed last. Returns the
    /// instances that *became* expired, as they became: each is returned by one call only. Returns `[]` when the node
    /// is not silent, or not on record.
    ///
    /// A node that stops for good calls this for itself with a silence of zero. It must send no heartbeat afterwards,
    /// not even one that is in progress, because a heartbeat puts the node on record again.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError>;

    /// Returns the nodes that were evicted, by others or by themselves, and have sent no heartbeat since: what they had
    /// outside of their host may remain. In the order of their names. One is listed until [`Store::forget_evicted`], for
    /// [`EVICTED_RETENTION`] at least.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn evicted_nodes(&self) -> Result<Vec<NodeId>, StoreError>;

    /// Takes a node off the list of [`Store::evicted_nodes`]. One that is not listed is no error.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn forget_evicted(&self, node: &NodeId) -> Result<(), StoreError>;

    /// Returns every record that a proxy must know (assigned and expired), exactly as it was at the returned cursor.
    ///
    /// Changes up to the cursor are in the table; later ones are in the stream after the cursor.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError>;

    /// Returns the route events after `cursor`, in order; waits up to `wait` for the first.
    ///
    /// Cancel safe: a dropped call loses no event. A passed deadline appears in the stream when it is swept. Instances
    /// that become warming or ready do not appear, except when a claim is undone.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError>;

    /// Whether the next server still finds the visitors' instances on record, however this server ends.
    fn is_durable(&self) -> bool {
        false
    }

    /// Checks that the store answers.
    ///
    /// # Errors
    /// `Unavailable` only.
    async fn ping(&self) -> Result<(), StoreError>;
}
