//! The named invariants of every store's records. The conformance suite, the model tests and debug builds check this
//! list.

use std::collections::HashMap;

use super::{EndReason, Endpoint, Instance, State};
use crate::clock::Millis;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {detail}")]
pub struct Violation {
    /// The invariant's name, a sentence.
    pub invariant: &'static str,
    /// The records that break it.
    pub detail: String,
}

fn violation(invariant: &'static str, detail: String) -> Result<(), Violation> {
    Err(Violation { invariant, detail })
}

/// Checks the records that a store has at one moment.
///
/// # Errors
/// The first invariant that the records break.
pub fn check<'a>(records: impl IntoIterator<Item = &'a Instance>) -> Result<(), Violation> {
    let mut ids = HashMap::new();
    let mut tokens = HashMap::new();
    let mut endpoints = HashMap::new();
    for record in records {
        if ids.insert(record.id(), ()).is_some() {
            return violation("an id has one record", format!("{} has two records", record.id()));
        }
        if let Some(lease) = record.lease() {
            if let Some(other) = tokens.insert(lease.token(), record.id()) {
                return violation(
                    "a claim has one instance",
                    format!("{other} and {} have the same claim", record.id()),
                );
            }
            if lease.deadline() < lease.assigned_at() {
                return violation("a lease ends after it began", record.id().to_string());
            }
        }
        if let State::Expired { lease, at, reason } = record.state() {
            let at_the_right_time = match reason {
                EndReason::Expired => *at == lease.deadline(),
                EndReason::Failed | EndReason::Unconfirmed | EndReason::NodeLost => *at < lease.deadline(),
            };
            if !at_the_right_time {
                return violation(
                    "the end time agrees with the end reason",
                    format!("{} at {at}", record.id()),
                );
            }
        }
        if let State::Ready { endpoint } | State::Assigned { endpoint, .. } = record.state()
            && let Some(other) = endpoints.insert((record.node(), *endpoint), record.id())
        {
            return violation(
                "an endpoint has one instance",
                format!("{other} and {} at {endpoint}", record.id()),
            );
        }
    }
    Ok(())
}

/// Checks how one record changed between two reads, `before` and `after` (`None`: the record is gone). Several
/// transitions may lie between them; `now` is the time of the second read.
///
/// # Errors
/// The first invariant that the change breaks.
pub fn check_step(before: &Instance, after: Option<&Instance>, now: Millis) -> Result<(), Violation> {
    let id = before.id();
    let Some(after) = after else {
        return match before.state() {
            State::Expired { .. } if !before.may_be_forgotten(now) => {
                violation("an expired record is kept for the retention time", id.to_string())
            }
            _ => Ok(()),
        };
    };
    if after == before {
        return Ok(());
    }
    if (after.id(), after.node(), after.revision(), after.created_at())
        != (id, before.node(), before.revision(), before.created_at())
    {
        return violation("id, node, revision and creation time never change", id.to_string());
    }
    let change = || format!("{id} went from {} to {}", before.state().name(), after.state().name());
    let is_withdrawn = matches!((before.state(), after.state()), (State::Ready { .. }, State::Warming));
    if rank(after) < rank(before) && !is_withdrawn {
        return violation("an assigned instance is never offered again", change());
    }
    // No transition skips a state, so each state on the way is at least one transition.
    let steps = rank(after).saturating_sub(rank(before)).max(1);
    if after.generation() < before.generation().saturating_add(steps) {
        return violation("each transition raises the generation", change());
    }
    if let State::Expired { .. } = before.state() {
        return violation("an expired record never changes", id.to_string());
    }
    match (before.lease(), after.lease()) {
        (Some(a), Some(b)) if (a.token(), a.assigned_at()) != (b.token(), b.assigned_at()) => {
            return violation("an instance has one visitor", format!("{id} has another visitor"));
        }
        (Some(a), Some(b)) if b.deadline() < a.deadline() => {
            return violation("a deadline only moves forward", id.to_string());
        }
        _ => {}
    }
    if let (State::Assigned { visitor: a, .. }, State::Assigned { visitor: b, .. }) =
        (before.state(), after.state())
        && a != b
    {
        return violation("an instance has one visitor", format!("{id} counts for another visitor"));
    }
    match (endpoint(before), endpoint(after)) {
        (Some(a), Some(b)) if a != b => {
            violation("an instance keeps its endpoint", format!("{id}: {a}, {b}"))
        }
        _ => Ok(()),
    }
}

/// Checks as [`check_step`] does, and also accepts that the claim was undone in between: then the instance was ready
/// again, and another visitor may have it.
///
/// # Errors
/// The first invariant that the change breaks either way.
pub fn check_step_or_claim_undone(
    before: &Instance,
    after: Option<&Instance>,
    now: Millis,
) -> Result<(), Violation> {
    let directly = check_step(before, after, now);
    match (before.lease(), directly.is_err()) {
        (Some(lease), true) => match before.claim_undone(lease.assigned_at()) {
            Ok(ready) => check_step(&ready, after, now),
            Err(_) => directly,
        },
        _ => directly,
    }
}

fn rank(instance: &Instance) -> u64 {
    match instance.state() {
        State::Warming => 0,
        State::Ready { .. } => 1,
        State::Assigned { .. } => 2,
        State::Expired { .. } => 3,
    }
}

fn endpoint(instance: &Instance) -> Option<Endpoint> {
    match instance.state() {
        State::Ready { endpoint } | State::Assigned { endpoint, .. } => Some(*endpoint),
        State::Warming | State::Expired { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::instance::{ClaimToken, InstanceId, NodeId, TemplateName};

    fn assigned() -> Instance {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        Instance::warming(id, NodeId::parse("n").unwrap(), 1, Millis(5))
            .offered(([127, 0, 0, 1], 4000).into())
            .unwrap()
            .assigned(ClaimToken(1), Millis(10), Duration::from_millis(100))
            .unwrap()
    }

    /// Makes a wrong record by way of its JSON, since the transitions make none.
    fn forged(of: &Instance, change: impl Fn(&mut Value)) -> Instance {
        let mut text = serde_json::to_value(of).unwrap();
        change(&mut text);
        serde_json::from_value(text).unwrap()
    }

    fn name(found: Result<(), Violation>) -> &'static str {
        found.unwrap_err().invariant
    }

    #[test]
    fn each_wrong_set_of_records_is_reported_by_its_invariant() {
        let (one, other) = (assigned(), assigned());
        let ended = one.expired(Millis(110)).unwrap();
        let elsewhere = forged(&other, |v| v["node"] = json!("m"));
        let later = forged(&other, |v| v["life"]["assigned"]["lease"]["token"] = json!(2));
        assert_eq!(name(check([&one, &one])), "an id has one record");
        assert_eq!(name(check([&one, &elsewhere])), "a claim has one instance");
        assert_eq!(name(check([&one, &later])), "an endpoint has one instance");
        let backwards = forged(&one, |v| v["life"]["assigned"]["lease"]["deadline"] = json!(9));
        assert_eq!(name(check([&backwards])), "a lease ends after it began");
        let too_early = forged(&ended, |v| v["life"]["expired"]["at"] = json!(109));
        assert_eq!(name(check([&too_early])), "the end time agrees with the end reason");
        assert_eq!(check([&ended, &later]), Ok(()));
    }

    #[test]
    fn each_wrong_change_is_reported_by_its_invariant() {
        let before = assigned();
        let next = |change: &dyn Fn(&mut Value)| {
            forged(&before, |v| {
                v["generation"] = json!(9);
                change(v);
            })
        };
        let step = |after: &Instance| name(check_step(&before, Some(after), Millis(50)));
        assert_eq!(
            step(&next(&|v| v["revision"] = json!(2))),
            "id, node, revision and creation time never change"
        );
        assert_eq!(
            step(&next(&|v| v["life"] = json!("warming"))),
            "an assigned instance is never offered again"
        );
        assert_eq!(step(&next(&|v| v["generation"] = json!(2))), "each transition raises the generation");
        let lease =
            |key: &'static str, to: u64| next(&move |v| v["life"]["assigned"]["lease"][key] = json!(to));
        assert_eq!(step(&lease("token", 2)), "an instance has one visitor");
        assert_eq!(step(&lease("assigned_at", 11)), "an instance has one visitor");
        let counted = next(&|v| v["life"]["assigned"]["visitor"] = json!("192.0.2.1"));
        assert_eq!(step(&counted), "an instance has one visitor");
        assert_eq!(step(&lease("deadline", 109)), "a deadline only moves forward");
        let moved = next(&|v| v["life"]["assigned"]["endpoint"] = json!({ "direct": "127.0.0.1:4001" }));
        assert_eq!(step(&moved), "an instance keeps its endpoint");
        let ended = before.expired(Millis(110)).unwrap();
        let again = forged(&ended, |v| v["generation"] = json!(9));
        assert_eq!(name(check_step(&ended, Some(&again), Millis(110))), "an expired record never changes");
        assert_eq!(
            name(check_step(&ended, None, Millis(111))),
            "an expired record is kept for the retention time"
        );
        assert_eq!(check_step(&before, None, Millis(50)), Ok(()));
        assert_eq!(check_step(&before, Some(&ended), Millis(110)), Ok(()));
    }

    #[test]
    fn only_the_check_for_undone_claims_accepts_that_an_instance_is_ready_again_or_another_visitors() {
        let before = assigned();
        let ready = before.claim_undone(Millis(20)).unwrap();
        let reassigned = ready.assigned(ClaimToken(2), Millis(30), Duration::from_millis(9)).unwrap();
        for after in [&ready, &reassigned] {
            assert!(check_step(&before, Some(after), Millis(30)).is_err());
            assert_eq!(check_step_or_claim_undone(&before, Some(after), Millis(30)), Ok(()));
        }
        let too_fast = forged(&reassigned, |v| v["generation"] = json!(4));
        let found = check_step_or_claim_undone(&before, Some(&too_fast), Millis(30));
        assert_eq!(name(found), "each transition raises the generation");
        let ended = before.expired(Millis(110)).unwrap();
        assert!(check_step_or_claim_undone(&ended, Some(&ready), Millis(110)).is_err());
    }
}
