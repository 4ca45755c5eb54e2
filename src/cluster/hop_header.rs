//! The hop header: what one node adds to a request that it forwards to another.
//!
//! ```text
//! x-try-it-now-hop: v2.<from>.<minute>.<hex of HMAC-SHA256(key, "hop|v2|<from>|<to>|<label>|<minute>")>
//! ```
//!
//! It proves that a node of the same cluster forwarded the request: the receiver trusts what the request says of its
//! visitor, and forwards it no further. The key is derived from the secret that all nodes share, and only they know it,
//! so no client can sign such a header. Version 1 was signed with the secret itself, and is refused like a forged
//! header: visitors are served, but nothing that the request says of them is trusted. What is signed includes
//!
//! - the receiver and the host, so that an overheard header is worth nothing at another node or for another instance,
//! - the minute, so that it expires soon.
//!
//! The header does not protect the request itself: the network between the nodes must be private, or encrypted (see
//! [`PeerTls`](super::PeerTls)).

use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::clock::Millis;
use crate::instance::NodeId;
use crate::template::NodeSecret;
use crate::template::node_secret::KeyUse;

/// The name of the hop header.
pub const HOP_HEADER: HeaderName = HeaderName::from_static("x-try-it-now-hop");

/// How far the clocks of two nodes may differ, in minutes.
const CLOCK_TOLERANCE_MINUTES: u64 = 2;

const MILLIS_PER_MINUTE: u64 = 60_000;

/// The key for signing, derived from the secret that all nodes share.
#[derive(Debug, Clone)]
pub(super) struct HopKey(hmac::Key);

impl HopKey {
    pub(super) fn new(secret: &NodeSecret) -> Self {
        Self(secret.key(KeyUse::HopHeader))
    }

    /// Returns the header's value for a request to the host `label` that `from` forwards to `to`.
    pub(super) fn sign(&self, from: &NodeId, to: &NodeId, label: &str, now: Millis) -> HeaderValue {
        let minute = now.0 / MILLIS_PER_MINUTE;
        let tag = hmac::sign(&self.0, signed_text(from, to, label, minute).as_bytes());
        HeaderValue::from_str(&format!("v2.{from}.{minute}.{}", hex::encode(tag.as_ref())))
            .expect("a node's id, a number and hexadecimal digits are a header value")
    }

    /// Returns the node that signed a value for `to` and the host `label` within the tolerated minutes around `now`.
    pub(super) fn signer(&self, value: &[u8], to: &NodeId, label: &str, now: Millis) -> Option<NodeId> {
        let mut parts = std::str::from_utf8(value).ok()?.split('.');
        let (version, from, minute, tag) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "v2" || parts.next().is_some() {
            return None;
        }
        let from = NodeId::parse(from).ok()?;
        let minute: u64 = minute.parse().ok()?;
        let mut mac = [0; 32];
        // One signature has one text: the decoder alone would accept capitals as well.
        if tag.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        hex::decode_to_slice(tag, &mut mac).ok()?;
        hmac::verify(&self.0, signed_text(&from, to, label, minute).as_bytes(), &mac).ok()?;
        (minute.abs_diff(now.0 / MILLIS_PER_MINUTE) <= CLOCK_TOLERANCE_MINUTES).then_some(from)
    }
}

/// Returns the text that is signed. No part can contain a bar: the ids of nodes and the labels of hosts consist of
/// letters, digits, dashes and the like.
fn signed_text(from: &NodeId, to: &NodeId, label: &str, minute: u64) -> String {
    format!("hop|v2|{from}|{to}|{label}|{minute}")
}

/// Returns the hop header of a request; `None` when it has none. Of several headers an invalid value is returned.
pub(super) fn read(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(HOP_HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.as_bytes()),
        (Some(_), Some(_)) => Some(b"several"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Secret;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn hop_key(secret: &str) -> HopKey {
        HopKey::new(&NodeSecret::random(Secret::new(secret)))
    }

    fn later(minutes: i64) -> Millis {
        Millis(NOW.0.checked_add_signed(minutes * MILLIS_PER_MINUTE as i64).unwrap())
    }

    #[test]
    fn a_hop_names_its_signer_to_its_receiver_for_its_host_only() {
        let (key, a, b) = (hop_key("secret"), node("a"), node("b"));
        let hop = key.sign(&a, &b, "shop-x", NOW);
        let signer = |key: &HopKey, to: &NodeId, label: &str| key.signer(hop.as_bytes(), to, label, NOW);
        assert_eq!(signer(&key, &b, "shop-x"), Some(a.clone()));
        assert_eq!(signer(&key, &a, "shop-x"), None, "returned to its signer");
        assert_eq!(signer(&key, &node("c"), "shop-x"), None, "for another node");
        assert_eq!(signer(&key, &b, "shop-y"), None, "for another host");
        assert_eq!(signer(&hop_key("Secret"), &b, "shop-x"), None, "with another secret");
    }

    #[test]
    fn a_hop_is_valid_while_the_clocks_differ_by_two_minutes_or_less() {
        let (key, a, b) = (hop_key("secret"), node("a"), node("b"));
        let hop = key.sign(&a, &b, "shop-x", NOW);
        for (minutes, is_valid) in
            [(-3, false), (-2, true), (0, true), (2, true), (3, false), (1_000_000, false)]
        {
            let signer = key.signer(hop.as_bytes(), &b, "shop-x", later(minutes));
            assert_eq!(signer.is_some(), is_valid, "{minutes} minutes later");
        }
    }

    #[test]
    fn a_signature_does_not_hold_when_the_borders_between_the_parts_move() {
        let key = hop_key("secret");
        let hop = key.sign(&node("a"), &node("b-c"), "d", NOW);
        assert_eq!(key.signer(hop.as_bytes(), &node("b"), "c-d", NOW), None);
        let text = hop.to_str().unwrap();
        for forged in [text.replace("v2.a.", "v2.b."), text.replace("v2.", "v1."), format!("{text}.x")] {
            assert_eq!(key.signer(forged.as_bytes(), &node("b-c"), "d", NOW), None, "{forged}");
        }
    }

    #[test]
    fn of_several_headers_none_is_trusted() {
        let mut headers = HeaderMap::new();
        assert_eq!(read(&headers), None);
        let hop = hop_key("secret").sign(&node("a"), &node("b"), "shop-x", NOW);
        headers.insert(HOP_HEADER, hop.clone());
        assert_eq!(read(&headers), Some(hop.as_bytes()));
        headers.append(HOP_HEADER, hop);
        assert_eq!(read(&headers), Some(&b"several"[..]));
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn what_one_node_signs_the_other_verifies(
            secret in "\\PC{0,40}", from in "[a-z0-9]{1,20}", to in "[a-z0-9]{1,20}", label in "[a-z0-9-]{1,63}",
            now in 0..u64::MAX / 2, off in 0..CLOCK_TOLERANCE_MINUTES * MILLIS_PER_MINUTE,
        ) {
            let (key, from, to) = (hop_key(&secret), node(&from), node(&to));
            let hop = key.sign(&from, &to, &label, Millis(now));
            prop_assert_eq!(key.signer(hop.as_bytes(), &to, &label, Millis(now + off)), Some(from.clone()));
            prop_assert_eq!(key.signer(hop.as_bytes(), &to, &label, Millis(now.saturating_sub(off))), Some(from));
        }

        #[test]
        fn a_value_with_one_byte_changed_is_invalid(at in 0..1000_usize, byte in 0x21..0x7f_u8) {
            let (key, a, b) = (hop_key("secret"), node("a"), node("b"));
            let mut value = key.sign(&a, &b, "shop-x", NOW).as_bytes().to_vec();
            let at = at % value.len();
            prop_assume!(value[at] != byte);
            value[at] = byte;
            prop_assert_eq!(key.signer(&value, &b, "shop-x", NOW), None);
        }

        #[test]
        fn no_value_causes_a_panic(value in proptest::collection::vec(0..=255_u8, 0..120), text in "[v0-9a-f.]{0,90}") {
            let (key, b) = (hop_key("secret"), node("b"));
            prop_assert_eq!(key.signer(&value, &b, "shop-x", NOW), None);
            prop_assert_eq!(key.signer(text.as_bytes(), &b, "shop-x", NOW), None);
        }
    }
}
