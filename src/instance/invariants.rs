//! What must hold of every store at every moment, by name. The conformance suite, the model tests and debug
//! builds check the same list.

use std::collections::HashMap;

use super::{Instance, Life};
use crate::clock::Millis;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {detail}")]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

fn broken(invariant: &'static str, detail: String) -> Result<(), Violation> {
    Err(Violation { invariant, detail })
}

/// Checks all that can be said of one moment: the records that a store holds.
pub fn check<'a>(records: impl IntoIterator<Item = &'a Instance>) -> Result<(), Violation> {
    let mut ids = HashMap::new();
    let mut tokens = HashMap::new();
    let mut endpoints = HashMap::new();
    for record in records {
        if ids.insert(record.id(), ()).is_some() {
            return broken("one record an id", format!("{} stands twice", record.id()));
        }
        if let Some(lease) = record.lease() {
            if let Some(other) = tokens.insert(lease.token(), record.id()) {
                return broken("one instance a claim", format!("{other} and {} share a claim", record.id()));
            }
            if lease.deadline() < lease.assigned_at() {
                return broken("a lease ends after it began", record.id().to_string());
            }
        }
        if let Life::Ready { endpoint } | Life::Assigned { endpoint, .. } = record.life()
            && let Some(other) = endpoints.insert((record.node(), *endpoint), record.id())
        {
            return broken("one instance an endpoint", format!("{other} and {} at {endpoint}", record.id()));
        }
    }
    Ok(())
}

/// Checks all that can be said of one record's step from `before` to `after` (`None`: it is gone).
pub fn check_step(before: &Instance, after: Option<&Instance>, now: Millis) -> Result<(), Violation> {
    let id = before.id();
    let Some(after) = after else {
        return match before.life() {
            Life::Expired { .. } if !before.may_be_forgotten(now) => {
                broken("an expired instance is known for a while", id.to_string())
            }
            _ => Ok(()),
        };
    };
    if after == before {
        return Ok(());
    }
    if after.generation() <= before.generation() {
        return broken("each step raises the generation", id.to_string());
    }
    let rank = |i: &Instance| match i.life() {
        Life::Warming => 0,
        Life::Ready { .. } => 1,
        Life::Assigned { .. } => 2,
        Life::Expired { .. } => 3,
    };
    if rank(after) < rank(before) {
        return broken(
            "nothing handed out is offered again",
            format!("{id} went from {} to {}", before.life().name(), after.life().name()),
        );
    }
    match (before.lease(), after.lease()) {
        (Some(a), Some(b)) if a.token() != b.token() => {
            broken("one visitor an instance", format!("{id} changed hands"))
        }
        (Some(a), Some(b)) if b.deadline() < a.deadline() => {
            broken("a deadline only moves forward", id.to_string())
        }
        _ => Ok(()),
    }
}
