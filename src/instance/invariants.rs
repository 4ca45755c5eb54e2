//! What must hold of every store at every moment, by name. The conformance suite, the model tests and debug
//! builds check the same list.

use std::collections::HashMap;

use super::{EndReason, Endpoint, Instance, State};
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
        if let State::Expired { lease, at, ending } = record.life() {
            let as_told = match ending {
                EndReason::Expired => *at == lease.deadline(),
                EndReason::Failed => *at < lease.deadline(),
            };
            if !as_told {
                return broken("an instance ends when its ending says", format!("{} at {at}", record.id()));
            }
        }
        if let State::Ready { endpoint } | State::Assigned { endpoint, .. } = record.life()
            && let Some(other) = endpoints.insert((record.node(), *endpoint), record.id())
        {
            return broken("one instance an endpoint", format!("{other} and {} at {endpoint}", record.id()));
        }
    }
    Ok(())
}

/// Checks all that can be said of one record between two looks at it, `before` and `after` (`None`: it is gone).
/// Several steps may lie between; `now` is the time of the second look.
pub fn check_step(before: &Instance, after: Option<&Instance>, now: Millis) -> Result<(), Violation> {
    let id = before.id();
    let Some(after) = after else {
        return match before.life() {
            State::Expired { .. } if !before.may_be_forgotten(now) => {
                broken("an expired instance is known for a while", id.to_string())
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
        return broken("an instance stays the one it is", id.to_string());
    }
    let change = || format!("{id} went from {} to {}", before.life().name(), after.life().name());
    if rank(after) < rank(before) {
        return broken("nothing handed out is offered again", change());
    }
    // Life has no short cuts: each state passed is a step.
    let steps = (rank(after) - rank(before)).max(1);
    if after.generation() < before.generation().saturating_add(steps) {
        return broken("each step raises the generation", change());
    }
    if let State::Expired { .. } = before.life() {
        return broken("what has expired stays as it is", id.to_string());
    }
    match (before.lease(), after.lease()) {
        (Some(a), Some(b)) if (a.token(), a.assigned_at()) != (b.token(), b.assigned_at()) => {
            return broken("one visitor an instance", format!("{id} changed hands"));
        }
        (Some(a), Some(b)) if b.deadline() < a.deadline() => {
            return broken("a deadline only moves forward", id.to_string());
        }
        _ => {}
    }
    match (endpoint(before), endpoint(after)) {
        (Some(a), Some(b)) if a != b => broken("an instance keeps its endpoint", format!("{id}: {a}, {b}")),
        _ => Ok(()),
    }
}

/// The same where the answer that handed it out may never have begun: then it was ready again in between, and may even
/// be another visitor's.
pub fn check_step_or_taken_back(
    before: &Instance,
    after: Option<&Instance>,
    now: Millis,
) -> Result<(), Violation> {
    let at_once = check_step(before, after, now);
    match (before.lease(), at_once.is_err()) {
        (Some(lease), true) => match before.taken_back(lease.assigned_at()) {
            Ok(ready) => check_step(&ready, after, now),
            Err(_) => at_once,
        },
        _ => at_once,
    }
}

fn rank(instance: &Instance) -> u64 {
    match instance.life() {
        State::Warming => 0,
        State::Ready { .. } => 1,
        State::Assigned { .. } => 2,
        State::Expired { .. } => 3,
    }
}

fn endpoint(instance: &Instance) -> Option<Endpoint> {
    match instance.life() {
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

    /// The steps do not let anybody make a wrong record; only a text can be one.
    fn forged(of: &Instance, change: impl Fn(&mut Value)) -> Instance {
        let mut text = serde_json::to_value(of).unwrap();
        change(&mut text);
        serde_json::from_value(text).unwrap()
    }

    fn name(found: Result<(), Violation>) -> &'static str {
        found.unwrap_err().invariant
    }

    #[test]
    fn each_wrong_set_of_records_is_called_by_its_name() {
        let (one, other) = (assigned(), assigned());
        let ended = one.expired(Millis(110)).unwrap();
        let elsewhere = forged(&other, |v| v["node"] = json!("m"));
        let later = forged(&other, |v| v["life"]["assigned"]["lease"]["token"] = json!(2));
        assert_eq!(name(check([&one, &one])), "one record an id");
        assert_eq!(name(check([&one, &elsewhere])), "one instance a claim");
        assert_eq!(name(check([&one, &later])), "one instance an endpoint");
        let backwards = forged(&one, |v| v["life"]["assigned"]["lease"]["deadline"] = json!(9));
        assert_eq!(name(check([&backwards])), "a lease ends after it began");
        let early = forged(&ended, |v| v["life"]["expired"]["at"] = json!(109));
        assert_eq!(name(check([&early])), "an instance ends when its ending says");
        assert_eq!(check([&ended, &later]), Ok(()));
    }

    #[test]
    fn each_wrong_step_is_called_by_its_name() {
        let before = assigned();
        let next = |change: &dyn Fn(&mut Value)| {
            forged(&before, |v| {
                v["generation"] = json!(9);
                change(v);
            })
        };
        let step = |after: &Instance| name(check_step(&before, Some(after), Millis(50)));
        assert_eq!(step(&next(&|v| v["revision"] = json!(2))), "an instance stays the one it is");
        assert_eq!(step(&next(&|v| v["life"] = json!("warming"))), "nothing handed out is offered again");
        assert_eq!(step(&next(&|v| v["generation"] = json!(2))), "each step raises the generation");
        let lease =
            |key: &'static str, to: u64| next(&move |v| v["life"]["assigned"]["lease"][key] = json!(to));
        assert_eq!(step(&lease("token", 2)), "one visitor an instance");
        assert_eq!(step(&lease("assigned_at", 11)), "one visitor an instance");
        assert_eq!(step(&lease("deadline", 109)), "a deadline only moves forward");
        let moved = next(&|v| v["life"]["assigned"]["endpoint"] = json!({ "direct": "127.0.0.1:4001" }));
        assert_eq!(step(&moved), "an instance keeps its endpoint");
        let ended = before.expired(Millis(110)).unwrap();
        let again = forged(&ended, |v| v["generation"] = json!(9));
        assert_eq!(name(check_step(&ended, Some(&again), Millis(110))), "what has expired stays as it is");
        assert_eq!(name(check_step(&ended, None, Millis(111))), "an expired instance is known for a while");
        assert_eq!(check_step(&before, None, Millis(50)), Ok(()));
        assert_eq!(check_step(&before, Some(&ended), Millis(110)), Ok(()));
    }

    #[test]
    fn only_where_that_is_allowed_may_an_instance_be_ready_again_or_anothers() {
        let before = assigned();
        let ready = before.taken_back(Millis(20)).unwrap();
        let anothers = ready.assigned(ClaimToken(2), Millis(30), Duration::from_millis(9)).unwrap();
        for after in [&ready, &anothers] {
            assert!(check_step(&before, Some(after), Millis(30)).is_err());
            assert_eq!(check_step_or_taken_back(&before, Some(after), Millis(30)), Ok(()));
        }
        let too_fast = forged(&anothers, |v| v["generation"] = json!(4));
        let found = check_step_or_taken_back(&before, Some(&too_fast), Millis(30));
        assert_eq!(name(found), "each step raises the generation");
        let ended = before.expired(Millis(110)).unwrap();
        assert!(check_step_or_taken_back(&ended, Some(&ready), Millis(110)).is_err());
    }
}
