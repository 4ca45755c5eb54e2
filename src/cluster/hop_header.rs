//! The field that one server adds to a request that it passes on to another.
//!
//! ```text
//! x-try-it-now-hop: v1.<from>.<minute>.<hex of HMAC-SHA256(secret, "hop|v1|<from>|<to>|<label>|<minute>")>
//! ```
//!
//! It says "I am a server of yours: believe what this request says of its visitor, and pass it on no further". The secret
//! is known to the servers only, so nobody else can write one. It names the receiver and the host, so that one that was
//! overheard opens nothing at another server and for another instance; and the minute, so that it is soon of no use.
//! What it does not do is to protect the request itself: the way between the servers is theirs alone, or encrypted.

use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::clock::Millis;
use crate::instance::NodeId;

/// The field's name.
pub const HOP: HeaderName = HeaderName::from_static("x-try-it-now-hop");

/// How far the clocks of two servers may differ, in minutes.
const TOLERANCE: u64 = 2;

const MINUTE: u64 = 60_000;

/// How a request came to this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// From a visitor, or from a proxy of the operator's.
    FromOutside,
    /// From this other server, which vouches for what the request says of its visitor.
    FromNode(NodeId),
    /// With a field that is none of a server's for this one: a forgery, one that is too old, or one of a server with
    /// another secret. Nothing that it says is believed.
    Unproved,
}

impl Provenance {
    /// Whether a server has passed it on to us, and we believe what it says of the visitor.
    pub fn is_believed(&self) -> bool {
        matches!(self, Provenance::FromNode(_))
    }

    /// Whether it may be passed on to another server. One that came with the field never is: two servers that each
    /// think the other is the owner would send it to and fro.
    pub fn may_be_passed_on(&self) -> bool {
        matches!(self, Provenance::FromOutside)
    }
}

/// What the servers share, made ready to sign with.
#[derive(Debug, Clone)]
pub(super) struct HopKey(hmac::Key);

impl HopKey {
    pub(super) fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// The field's value for a request to the host `label` that `from` passes on to `to`.
    pub(super) fn sign(&self, from: &NodeId, to: &NodeId, label: &str, now: Millis) -> HeaderValue {
        let minute = now.0 / MINUTE;
        let tag = hmac::sign(&self.0, words(from, to, label, minute).as_bytes());
        HeaderValue::from_str(&format!("v1.{from}.{minute}.{}", hex::encode(tag.as_ref())))
            .expect("a node's name, a number and hexadecimal digits are a header value")
    }

    /// Who signed a value for `to` and the host `label`, not long ago.
    pub(super) fn signer(&self, value: &[u8], to: &NodeId, label: &str, now: Millis) -> Option<NodeId> {
        let mut parts = std::str::from_utf8(value).ok()?.split('.');
        let (version, from, minute, tag) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "v1" || parts.next().is_some() {
            return None;
        }
        let from = NodeId::parse(from).ok()?;
        let minute: u64 = minute.parse().ok()?;
        let mut mac = [0; 32];
        hex::decode_to_slice(tag, &mut mac).ok()?;
        hmac::verify(&self.0, words(&from, to, label, minute).as_bytes(), &mac).ok()?;
        (minute.abs_diff(now.0 / MINUTE) <= TOLERANCE).then_some(from)
    }
}

/// What is signed. No part has a bar in it: names of nodes and hosts are letters, digits, dashes and the like.
fn words(from: &NodeId, to: &NodeId, label: &str, minute: u64) -> String {
    format!("hop|v1|{from}|{to}|{label}|{minute}")
}

/// The field of a request. `None` when there is none; several are as good as a wrong one.
pub(super) fn read(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(HOP).iter();
    match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.as_bytes()),
        (Some(_), Some(_)) => Some(b"several"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn later(minutes: i64) -> Millis {
        Millis(NOW.0.checked_add_signed(minutes * MINUTE as i64).unwrap())
    }

    #[test]
    fn a_hop_names_its_signer_to_its_receiver_for_its_host_only() {
        let (key, a, b) = (HopKey::new("secret"), node("a"), node("b"));
        let hop = key.sign(&a, &b, "shop-x", NOW);
        let signer = |key: &HopKey, to: &NodeId, label: &str| key.signer(hop.as_bytes(), to, label, NOW);
        assert_eq!(signer(&key, &b, "shop-x"), Some(a.clone()));
        assert_eq!(signer(&key, &a, "shop-x"), None, "sent back to its signer");
        assert_eq!(signer(&key, &node("c"), "shop-x"), None, "for another server");
        assert_eq!(signer(&key, &b, "shop-y"), None, "for another host");
        assert_eq!(signer(&HopKey::new("Secret"), &b, "shop-x"), None, "with another secret");
    }

    #[test]
    fn a_hop_is_good_for_two_minutes_of_the_clocks_difference_and_no_more() {
        let (key, a, b) = (HopKey::new("secret"), node("a"), node("b"));
        let hop = key.sign(&a, &b, "shop-x", NOW);
        for (minutes, good) in [(-3, false), (-2, true), (0, true), (2, true), (3, false), (1_000_000, false)]
        {
            let signer = key.signer(hop.as_bytes(), &b, "shop-x", later(minutes));
            assert_eq!(signer.is_some(), good, "{minutes} minutes later");
        }
    }

    #[test]
    fn nobody_can_sign_for_another_by_moving_the_borders_between_the_parts() {
        let key = HopKey::new("secret");
        let hop = key.sign(&node("a"), &node("b-c"), "d", NOW);
        assert_eq!(key.signer(hop.as_bytes(), &node("b"), "c-d", NOW), None);
        let text = hop.to_str().unwrap();
        for forged in [text.replace("v1.a.", "v1.b."), text.replace("v1.", "v2."), format!("{text}.x")] {
            assert_eq!(key.signer(forged.as_bytes(), &node("b-c"), "d", NOW), None, "{forged}");
        }
    }

    #[test]
    fn of_several_fields_none_is_believed() {
        let mut headers = HeaderMap::new();
        assert_eq!(read(&headers), None);
        let hop = HopKey::new("secret").sign(&node("a"), &node("b"), "shop-x", NOW);
        headers.insert(HOP, hop.clone());
        assert_eq!(read(&headers), Some(hop.as_bytes()));
        headers.append(HOP, hop);
        assert_eq!(read(&headers), Some(&b"several"[..]));
    }

    proptest! {
        #[test]
        fn what_is_signed_is_verified(
            secret in "\\PC{0,40}", from in "[a-z0-9]{1,20}", to in "[a-z0-9]{1,20}", label in "[a-z0-9-]{1,63}",
            now in 0..u64::MAX / 2, off in 0..TOLERANCE * MINUTE,
        ) {
            let (key, from, to) = (HopKey::new(&secret), node(&from), node(&to));
            let hop = key.sign(&from, &to, &label, Millis(now));
            prop_assert_eq!(key.signer(hop.as_bytes(), &to, &label, Millis(now + off)), Some(from.clone()));
            prop_assert_eq!(key.signer(hop.as_bytes(), &to, &label, Millis(now.saturating_sub(off))), Some(from));
        }

        #[test]
        fn a_value_with_any_byte_changed_is_worth_nothing(at in 0..1000_usize, byte in 0x21..0x7f_u8) {
            let (key, a, b) = (HopKey::new("secret"), node("a"), node("b"));
            let mut value = key.sign(&a, &b, "shop-x", NOW).as_bytes().to_vec();
            let at = at % value.len();
            prop_assume!(value[at] != byte);
            value[at] = byte;
            prop_assert_eq!(key.signer(&value, &b, "shop-x", NOW), None);
        }

        #[test]
        fn no_value_makes_it_panic(value in proptest::collection::vec(0..=255_u8, 0..120), text in "[v0-9a-f.]{0,90}") {
            let (key, b) = (HopKey::new("secret"), node("b"));
            prop_assert_eq!(key.signer(&value, &b, "shop-x", NOW), None);
            prop_assert_eq!(key.signer(text.as_bytes(), &b, "shop-x", NOW), None);
        }
    }
}
