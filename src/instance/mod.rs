//! The rules of an instance's life, pure: no IO, and `now` is an argument.
//!
//! `warming -> ready -> assigned -> expired`, and then gone. Nobody sets a state: the only way from one to the
//! next is a method of [`Instance`] that checks the rule, and each step raises the generation, so that of two
//! steps from the same generation exactly one can be stored.

mod counts;
mod endpoint;
mod id;
mod invariants;
mod lease;
#[cfg(test)]
mod properties;
mod rate_limit;
mod state;

pub use counts::Counts;
pub use endpoint::Endpoint;
pub use id::{ClaimToken, InstanceId, MAX_TEMPLATE_NAME, MalformedName, NodeId, TemplateName};
pub use invariants::{Violation, check, check_step, check_step_or_taken_back};
pub use lease::{ExtendRefused, Lease};
pub use rate_limit::{Limits, RateLimited, Usage, Window};
pub use state::{EndReason, Instance, RETENTION, Refused, State};
