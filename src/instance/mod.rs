//! The states of an instance and the rules that lead from one to the next. Pure: no IO, and `now` is an argument.
//!
//! No code sets a state. The only way from one state to the next is a method of [`Instance`] that checks the rule and
//! raises the generation. A store writes a record only over the generation that it read, so of two transitions from the
//! same generation exactly one is stored and the other is refused.
//!
//! ```text
//!            offer           claim         expire, lapse, fail, evict       forget
//!  warming ---------> ready ---------> assigned ---------> expired ---------------------> gone
//!     |  ^            |  ^               |  | ^                                            ^
//!     |  +- withdraw -+  |               |  | |                                            |
//!     |               |  +- undo claim --+  | |                                            |
//!     |               |                     | +-- extend: assigned with a later deadline   |
//!     |               |                     +----------- release --------------------------+
//!     +---------------+--------------------------------- retire, fail, evict --------------+
//! ```
//!
//! | transition | from -> to | what it means | method |
//! |---|---|---|---|
//! | insert | -> `warming` | A node begins to make the instance. | [`Instance::warming`] |
//! | offer | `warming` -> `ready` | The app answers; visitors may get the instance. | [`Instance::offered`] |
//! | withdraw | `ready` -> `warming` | The app no longer passes its ready check. | [`Instance::withdrawn`] |
//! | claim | `ready` -> `assigned` | One visitor gets the instance, and the lease begins. | [`Instance::assigned_to`] |
//! | undo claim | `assigned` -> `ready` | No byte of the claim's answer was attempted. | [`Instance::claim_undone`] |
//! | extend | `assigned` -> `assigned` | The deadline moves forward. | [`Instance::extended`] |
//! | expire | `assigned` -> `expired` | The deadline has come. | [`Instance::expired`] |
//! | lapse | `assigned` -> `expired` | The claim was not confirmed in time. | [`Instance::claim_lapsed`] |
//! | fail | `assigned` -> `expired` | The app died before the deadline. | [`Instance::failed`] |
//! | fail | `warming`, `ready` -> gone | The app died before a visitor had it. | [`Instance::failed`] |
//! | evict | `assigned` -> `expired` | The instance's node is gone. | [`Instance::evicted`] |
//! | evict | `warming`, `ready` -> gone | The instance's node is gone. | [`Instance::evicted`] |
//! | release | `assigned` -> gone | The visitor ends the lease early. | [`Instance::may_be_released`] |
//! | retire | `warming`, `ready` -> gone | The pool removes an unused instance. | [`Instance::may_be_retired`] |
//! | forget | `expired` -> gone | [`RETENTION`] has passed since the end. | [`Instance::may_be_forgotten`] |
//!
//! Why an assigned instance expired is kept as [`EndReason`]: each reason has its own page. The API has two names for
//! them, see [`EndReason::name`].
//!
//! A claim without limits is [`Instance::assigned`], which records no visitor.
//!
//! An instance whose claim was undone may be assigned to another visitor. Evict ends all instances of a node by the same
//! rules as fail. The pool retires instances to shrink, to stop, or because their template changed.
//!
//! "Gone" is no state: the record is deleted. A visitor of an expired instance gets 410, one of an instance that is
//! gone gets 404.
//!
//! **Trap.** Subscribers of route events learn of an undone claim as the ready record, never as "gone": a follower of
//! the events would stop an instance that is gone, and the route table would refuse the claim that comes next.
//!
//! **When a transition changes**, change [`invariants`](check_step), every store and the store's conformance suite with
//! it. What the records hold is read back from journals that older versions wrote (`store/journal.rs`).

mod counts;
mod endpoint;
mod id;
mod invariants;
mod lease;
#[cfg(test)]
mod properties;
mod rate_limit;
mod state;
mod visitor;

pub use counts::StateCounts;
pub use endpoint::Endpoint;
pub use id::{ClaimToken, InstanceId, MAX_TEMPLATE_NAME, MalformedName, NodeId, TemplateName};
pub use invariants::{Violation, check, check_step, check_step_or_claim_undone};
pub use lease::{ExtendRefused, Lease};
pub use rate_limit::{RateLimited, RateLimits, RateUsage, RateWindow, ReachedLimit};
pub use state::{EndReason, Instance, RETENTION, State, TransitionRefused};
pub use visitor::{Visitor, VisitorNetwork};
