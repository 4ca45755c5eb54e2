//! What a step on a record means beyond the new record.

use crate::instance::{Instance, State};

/// The kind of a step, where its effect is more than the new record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    /// The record is unconfirmed from now on.
    Claim,
    /// The record is first in the queue, and proxies learn that it is ready: they knew it as assigned.
    UndoClaim,
    Other,
}

/// Whether proxies must know an instance.
pub(super) fn is_routed(instance: &Instance) -> bool {
    matches!(instance.state(), State::Assigned { .. } | State::Expired { .. })
}
