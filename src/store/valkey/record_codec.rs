//! A record as text: its fields with bars between, which a script takes apart without a parser. The order is that of
//! `pack` in `scripts/prelude.lua`.

use std::net::SocketAddr;

use crate::clock::Millis;
use crate::instance::{ClaimToken, EndReason, Endpoint, Instance, InstanceId, Lease, NodeId, State};

/// What separates the fields. No field can hold it.
const BAR: char = '|';

/// Writes a record.
pub(super) fn write(instance: &Instance) -> String {
    let (mut at, mut token, mut assigned, mut deadline, mut ended, mut ending) =
        (String::new(), String::new(), String::new(), String::new(), String::new(), "");
    let mut lease_of = |lease: &Lease| {
        token = self::token(lease.token());
        assigned = lease.assigned_at().0.to_string();
        deadline = lease.deadline().0.to_string();
    };
    match instance.life() {
        State::Warming => {}
        State::Ready { endpoint: here } => at = endpoint(*here),
        State::Assigned { endpoint: here, lease } => {
            at = endpoint(*here);
            lease_of(lease);
        }
        State::Expired { lease, at: end, ending: how } => {
            lease_of(lease);
            ended = end.0.to_string();
            ending = how.name();
        }
    }
    let (generation, revision) = (instance.generation().to_string(), instance.revision().to_string());
    let created = instance.created_at().0.to_string();
    let state = instance.life().name();
    let node = instance.node().as_str();
    [&generation, state, node, &revision, &created, &at, &token, &assigned, &deadline, &ended, ending]
        .join(&BAR.to_string())
}

/// Reads a record; `None` when it is none.
pub(super) fn read(id: &str, text: &str) -> Option<Instance> {
    let fields: Vec<&str> = text.split(BAR).collect();
    let [generation, state, node, revision, created, at, token, assigned, deadline, ended, ending] =
        fields.try_into().ok()?;
    let lease = || {
        let token = ClaimToken(u128::from_str_radix(token, 16).ok()?);
        Some(Lease::recorded(token, millis(assigned)?, millis(deadline)?))
    };
    let life = match state {
        "warming" => State::Warming,
        "ready" => State::Ready { endpoint: read_endpoint(at)? },
        "assigned" => State::Assigned { endpoint: read_endpoint(at)?, lease: lease()? },
        "expired" => {
            let ending = match ending {
                "expired" => EndReason::Expired,
                "failed" => EndReason::Failed,
                _ => return None,
            };
            State::Expired { lease: lease()?, at: millis(ended)?, ending }
        }
        _ => return None,
    };
    Some(Instance::recorded(
        InstanceId::parse(id).ok()?,
        NodeId::parse(node).ok()?,
        revision.parse().ok()?,
        generation.parse().ok()?,
        millis(created)?,
        life,
    ))
}

pub(super) fn token(token: ClaimToken) -> String {
    format!("{:032x}", token.0)
}

/// Writes an endpoint: an address, or the number of a namespace and the port in it.
pub(super) fn endpoint(endpoint: Endpoint) -> String {
    match endpoint {
        Endpoint::Direct(address) => address.to_string(),
        Endpoint::Sealed { namespace, port } => format!("{namespace}/{port}"),
    }
}

fn read_endpoint(text: &str) -> Option<Endpoint> {
    if let Some((namespace, port)) = text.split_once('/') {
        return Some(Endpoint::Sealed { namespace: namespace.parse().ok()?, port: port.parse().ok()? });
    }
    Some(Endpoint::Direct(text.parse::<SocketAddr>().ok()?))
}

pub(super) fn millis(text: &str) -> Option<Millis> {
    text.parse().ok().map(Millis)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::instance::TemplateName;

    #[test]
    fn a_record_reads_back_unchanged_in_each_state_of_its_life() {
        let id = InstanceId::random(&TemplateName::new("a-shop").unwrap());
        let warming = Instance::warming(id.clone(), NodeId::random(), u64::MAX, Millis(10));
        let far: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
        let ready = warming.offered(far.into()).unwrap();
        let sealed = warming.offered(Endpoint::Sealed { namespace: 7, port: 80 }).unwrap();
        let held = sealed.assigned(ClaimToken(u128::MAX), Millis(20), Duration::from_secs(1)).unwrap();
        let dead = held.failed(Millis(30)).unwrap().unwrap();
        let over = held.expired(Millis(9_000)).unwrap();
        for record in [warming, ready, sealed, held, dead, over] {
            assert_eq!(read(id.as_str(), &write(&record)), Some(record));
        }
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        for text in ["", "|", "1|warming|a|1", "1|asleep|a|1|1||||||", "x|warming|a|1|1||||||"] {
            assert_eq!(read(id.as_str(), text), None, "{text}");
        }
        assert_eq!(read("no id", "1|warming|a|1|1||||||"), None);
        assert!(read(id.as_str(), "1|warming|a|1|1||||||").is_some());
    }
}
