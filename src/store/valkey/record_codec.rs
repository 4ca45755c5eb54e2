//! A record as text: its fields with bars in between, which a script separates without a parser.
//!
//! The order of the fields is that of `pack` in `scripts/prelude.lua`. Records of older versions must stay readable,
//! and older versions must be able to read those of this one, for they may share the Valkey. So an expired record names
//! each early end `failed` in its last field, and what kind of end it was in the field of the endpoint: there older
//! versions ignore it, and left the endpoint. An assigned record has the visitor in the last field, which older
//! versions ignore in that state, and keep.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::{ClaimToken, EndReason, Endpoint, Instance, InstanceId, Lease, NodeId, State, Visitor};

/// What separates the fields. No field can contain it.
const SEPARATOR: char = '|';

/// The field of the endpoint in the record of an expired instance whose claim was never confirmed; `sweep.lua` writes
/// it too.
const UNCONFIRMED: &str = "unconfirmed";

/// The field of the endpoint in the record of an expired instance whose node is gone; `evict_node.lua` writes it too.
const NODE_LOST: &str = "node_lost";

/// Longest time in milliseconds that a script gets. The numbers of Lua are not exact far beyond it.
const MAX_MILLIS: u128 = 1 << 50;

/// Returns a record as text.
pub(super) fn write(instance: &Instance) -> String {
    let (mut at, mut token, mut assigned, mut deadline, mut ended, mut ending) =
        (String::new(), String::new(), String::new(), String::new(), String::new(), "");
    let mut write_lease = |lease: &Lease| {
        token = token_text(lease.token());
        assigned = lease.assigned_at().0.to_string();
        deadline = lease.deadline().0.to_string();
    };
    match instance.state() {
        State::Warming => {}
        State::Ready { endpoint } => at = endpoint_text(*endpoint),
        State::Assigned { endpoint, lease, visitor } => {
            at = endpoint_text(*endpoint);
            write_lease(lease);
            ending = visitor.as_ref().map_or("", Visitor::as_str);
        }
        State::Expired { lease, at: ended_at, reason } => {
            write_lease(lease);
            ended = ended_at.0.to_string();
            (ending, at) = match reason {
                EndReason::Expired => ("expired", String::new()),
                EndReason::Failed => ("failed", String::new()),
                EndReason::Unconfirmed => ("failed", UNCONFIRMED.to_owned()),
                EndReason::NodeLost => ("failed", NODE_LOST.to_owned()),
            };
        }
    }
    let (generation, revision) = (instance.generation().to_string(), instance.revision().to_string());
    let created = instance.created_at().0.to_string();
    let state = instance.state().name();
    let node = instance.node().as_str();
    [&generation, state, node, &revision, &created, &at, &token, &assigned, &deadline, &ended, ending]
        .join(&SEPARATOR.to_string())
}

/// Reads a record; `None` when the text is not one.
pub(super) fn read(id: &str, text: &str) -> Option<Instance> {
    let fields: Vec<&str> = text.split(SEPARATOR).collect();
    let [generation, state, node, revision, created, at, token, assigned, deadline, ended, ending] =
        fields.try_into().ok()?;
    let lease = || {
        let token = ClaimToken(u128::from_str_radix(token, 16).ok()?);
        Some(Lease::recorded(token, read_millis(assigned)?, read_millis(deadline)?))
    };
    let state = match state {
        "warming" => State::Warming,
        "ready" => State::Ready { endpoint: read_endpoint(at)? },
        "assigned" => {
            let visitor = (!ending.is_empty()).then(|| Visitor::new(ending));
            State::Assigned { endpoint: read_endpoint(at)?, lease: lease()?, visitor }
        }
        "expired" => {
            let reason = match (ending, at) {
                ("expired", _) => EndReason::Expired,
                ("failed", UNCONFIRMED) => EndReason::Unconfirmed,
                ("failed", NODE_LOST) => EndReason::NodeLost,
                ("failed", _) => EndReason::Failed,
                _ => return None,
            };
            State::Expired { lease: lease()?, at: read_millis(ended)?, reason }
        }
        _ => return None,
    };
    Some(Instance::recorded(
        InstanceId::parse(id).ok()?,
        NodeId::parse(node).ok()?,
        revision.parse().ok()?,
        generation.parse().ok()?,
        read_millis(created)?,
        state,
    ))
}

/// Returns a token as text: 32 hexadecimal digits.
pub(super) fn token_text(token: ClaimToken) -> String {
    format!("{:032x}", token.0)
}

/// Stands before the port of an app that listens on `::1` in its namespace.
const IPV6_MARK: &str = "[::1]:";

/// Returns an endpoint as text: an address, or the number of a namespace and the port in it.
pub(super) fn endpoint_text(endpoint: Endpoint) -> String {
    match endpoint {
        Endpoint::Direct(address) => address.to_string(),
        Endpoint::Sealed { namespace, port } => format!("{namespace}/{port}"),
        Endpoint::SealedIpv6 { namespace, port } => format!("{namespace}/{IPV6_MARK}{port}"),
    }
}

fn read_endpoint(text: &str) -> Option<Endpoint> {
    if let Some((namespace, port)) = text.split_once('/') {
        let namespace = namespace.parse().ok()?;
        return Some(match port.strip_prefix(IPV6_MARK) {
            Some(port) => Endpoint::SealedIpv6 { namespace, port: port.parse().ok()? },
            None => Endpoint::Sealed { namespace, port: port.parse().ok()? },
        });
    }
    Some(Endpoint::Direct(text.parse::<SocketAddr>().ok()?))
}

/// Reads a time in milliseconds.
pub(super) fn read_millis(text: &str) -> Option<Millis> {
    text.parse().ok().map(Millis)
}

/// Returns a duration as text, in milliseconds.
pub(super) fn duration_text(duration: Duration) -> String {
    duration.as_millis().min(MAX_MILLIS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::TemplateName;

    #[test]
    fn a_record_reads_back_unchanged_in_each_state() {
        let id = InstanceId::random(&TemplateName::new("a-shop").unwrap());
        let warming = Instance::warming(id.clone(), NodeId::random(), u64::MAX, Millis(10));
        let far: SocketAddr = "[2001:db8::1]:65535".parse().unwrap();
        let ready = warming.offered(far.into()).unwrap();
        let sealed = warming.offered(Endpoint::Sealed { namespace: 7, port: 80 }).unwrap();
        let held = sealed.assigned(ClaimToken(u128::MAX), Millis(20), Duration::from_secs(1)).unwrap();
        let dead = held.failed(Millis(30)).unwrap().unwrap();
        let lost = held.evicted(Millis(30)).unwrap().unwrap();
        let lapsed = held.claim_lapsed(Millis(30)).unwrap();
        let over = held.expired(Millis(9_000)).unwrap();
        let visitor = Visitor::new("2001:db8::/64").within(4, "2001:db8::/56");
        let counted = ready.assigned_to(&visitor, ClaimToken(7), Millis(20), Duration::from_secs(1)).unwrap();
        for record in [warming, ready, sealed, held, counted, dead, lost, lapsed, over] {
            assert_eq!(read(id.as_str(), &write(&record)), Some(record));
        }
    }

    #[test]
    fn the_end_in_a_record_of_an_older_version_is_read() {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let token = token_text(ClaimToken(7));
        let reason = |endpoint: &str, ending: &str| {
            let text = format!("4|expired|a|1|1|{endpoint}|{token}|20|1020|30|{ending}");
            match read(id.as_str(), &text).unwrap().state() {
                State::Expired { reason, .. } => *reason,
                other => panic!("{other:?}"),
            }
        };
        for endpoint in ["", "127.0.0.1:4000", "7/80"] {
            assert_eq!(reason(endpoint, "failed"), EndReason::Failed);
            assert_eq!(reason(endpoint, "expired"), EndReason::Expired);
        }
    }

    #[test]
    fn text_that_is_not_a_record_is_not_read() {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        for text in ["", "|", "1|warming|a|1", "1|asleep|a|1|1||||||", "x|warming|a|1|1||||||"] {
            assert_eq!(read(id.as_str(), text), None, "{text}");
        }
        assert_eq!(read("no id", "1|warming|a|1|1||||||"), None);
        assert!(read(id.as_str(), "1|warming|a|1|1||||||").is_some());
    }
}
