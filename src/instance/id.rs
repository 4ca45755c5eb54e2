//! The names of templates, instances, nodes and claims.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Longest template name, in bytes. A dash and 16 characters follow it in an instance's id, and an id is a DNS label of
/// at most 63 bytes.
pub const MAX_TEMPLATE_NAME: usize = 46;

/// Number of characters after the last dash of an instance's id: 80 random bits, 5 bits a character.
const RANDOM_CHARS: usize = 16;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The text is no name of the requested kind. The message says what such a name looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedName(pub &'static str);

/// A template's name: a DNS label of lower-case letters, digits and inner dashes, 1 to 46 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(Arc<str>);

/// An instance's id, which is also its host label: the template's name, a dash, and 80 random bits in lower-case
/// base32. It cannot be guessed: knowing it is the right to open the app, and nothing else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    text: Arc<str>,
    /// Where the template's name ends.
    template_len: u8,
}

/// The name of a node among all nodes that share a store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// Makes a claim idempotent: a claim that is repeated with the same token gets the same instance. 128 random bits.
///
/// It is also the instance's token: the secret by which its visitor proves that the instance is theirs. Its `Debug`
/// does not show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimToken(pub u128);

fn is_label(s: &str, max: usize) -> bool {
    let b = s.as_bytes();
    (1..=max).contains(&b.len())
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Ids are the only secret between visitors. Without randomness the program cannot continue safely.
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    bytes
}

impl TemplateName {
    /// Checks a name.
    ///
    /// # Errors
    /// The text is no such name.
    pub fn new(name: &str) -> Result<Self, MalformedName> {
        if is_label(name, MAX_TEMPLATE_NAME) {
            Ok(Self(name.into()))
        } else {
            Err(MalformedName(
                "a template's name is 1 to 46 lower-case letters, digits and dashes, no dash first or last",
            ))
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets a map keyed by template be looked up by [`InstanceId::template`]. Both are equal, ordered and hashed alike.
impl Borrow<str> for TemplateName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl InstanceId {
    /// Returns a fresh id of a template's instance, from the operating system's random source.
    pub fn random(template: &TemplateName) -> Self {
        let bits = random::<10>();
        let mut text = String::with_capacity(template.0.len() + 1 + RANDOM_CHARS);
        text.push_str(&template.0);
        text.push('-');
        for chunk in bits.as_chunks::<5>().0 {
            let value = chunk.iter().fold(0_u64, |v, b| v << 8 | u64::from(*b));
            for i in (0..8).rev() {
                text.push(char::from(ALPHABET[(value >> (5 * i) & 31) as usize]));
            }
        }
        Self { text: text.into(), template_len: template.0.len() as u8 }
    }

    /// Reads an id. Upper-case letters are refused, because a canonical host has none.
    ///
    /// # Errors
    /// The text has not the form of an id. Whether an instance has that id is not checked.
    pub fn parse(text: &str) -> Result<Self, MalformedName> {
        const WRONG: MalformedName = MalformedName("no instance has an id of this form");
        let (template, rest) = text.rsplit_once('-').ok_or(WRONG)?;
        if !is_label(template, MAX_TEMPLATE_NAME)
            || rest.len() != RANDOM_CHARS
            || !rest.bytes().all(|c| ALPHABET.contains(&c))
        {
            return Err(WRONG);
        }
        Ok(Self { text: text.into(), template_len: template.len() as u8 })
    }

    /// Returns the id as text, which is also the host label.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the id as shared text, without copying it.
    pub fn shared(&self) -> Arc<str> {
        self.text.clone()
    }

    /// Returns the name of the instance's template, which is part of the id.
    pub fn template(&self) -> &str {
        &self.text[..usize::from(self.template_len)]
    }
}

impl NodeId {
    /// Returns a fresh random name.
    pub fn random() -> Self {
        let hex = hex::encode(random::<6>());
        Self(format!("node-{hex}").into())
    }

    /// Checks a name, which is a DNS label of at most 63 bytes.
    ///
    /// # Errors
    /// The text is no such name.
    pub fn parse(text: &str) -> Result<Self, MalformedName> {
        if is_label(text, 63) {
            Ok(Self(text.into()))
        } else {
            Err(MalformedName("a node's name is a DNS label"))
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClaimToken {
    /// Returns a fresh random token.
    pub fn random() -> Self {
        Self(u128::from_le_bytes(random::<16>()))
    }

    /// Returns the token as its visitor gets it: base64url without padding, 22 characters.
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.to_be_bytes())
    }

    /// Returns whether `offered` is the text of this token. The comparison takes the same time wherever the two
    /// differ.
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.reveal().as_bytes().ct_eq(offered).into()
    }
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimToken(..)")
    }
}

macro_rules! text_like {
    ($name:ident, $parse:path) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromStr for $name {
            type Err = MalformedName;
            fn from_str(s: &str) -> Result<Self, MalformedName> {
                $parse(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = MalformedName;
            fn try_from(s: String) -> Result<Self, MalformedName> {
                $parse(&s)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
    };
}
text_like!(TemplateName, TemplateName::new);
text_like!(InstanceId, InstanceId::parse);
text_like!(NodeId, NodeId::parse);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fresh_id_names_its_template_and_reads_back() {
        let template = TemplateName::new("my-shop").unwrap();
        let id = InstanceId::random(&template);
        assert_eq!(id.template(), "my-shop");
        assert_eq!(InstanceId::parse(id.as_str()).unwrap(), id);
    }

    #[test]
    fn the_longest_template_name_makes_an_id_that_fits_a_dns_label() {
        let template = TemplateName::new(&"a".repeat(MAX_TEMPLATE_NAME)).unwrap();
        assert_eq!(InstanceId::random(&template).as_str().len(), 63);
        assert!(TemplateName::new(&"a".repeat(MAX_TEMPLATE_NAME + 1)).is_err());
    }

    #[test]
    fn a_token_matches_its_own_text_only_and_is_not_printed() {
        let token = ClaimToken(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef);
        let text = token.reveal();
        assert_eq!(text, "_ty6mHZUMhABI0VniavN7w");
        assert!(token.matches(text.as_bytes()));
        for other in ["", "_ty6mHZUMhABI0VniavN7", "_ty6mHZUMhABI0VniavN7A", "_TY6MHZUMHABI0VNIAVN7W"] {
            assert!(!token.matches(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "ClaimToken(..)");
    }

    #[test]
    fn ids_do_not_repeat() {
        let template = TemplateName::new("t").unwrap();
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| InstanceId::random(&template)).collect();
        assert_eq!(ids.len(), 1000);
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_text_makes_parsing_panic(s in "\\PC{0,80}") {
            let _ = InstanceId::parse(&s);
            let _ = TemplateName::new(&s);
            let _ = NodeId::parse(&s);
        }

        #[test]
        fn what_parses_is_unchanged(s in "[a-z0-9-]{0,50}-[a-z2-7]{16}") {
            if let Ok(id) = InstanceId::parse(&s) {
                prop_assert_eq!(id.as_str(), s.as_str());
                prop_assert!(TemplateName::new(id.template()).is_ok());
            }
        }
    }
}
