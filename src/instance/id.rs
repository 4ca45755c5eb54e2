//! Names: of templates, instances, nodes and claims.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest template name in bytes: a dash and 16 characters are added to make an instance's id, and that is a
/// DNS label, at most 63.
pub const MAX_TEMPLATE_NAME: usize = 46;

/// Characters after the last dash of an instance's id: 80 random bits, 5 a character.
const RANDOM_CHARS: usize = 16;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A text that is not a name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedName(pub &'static str);

/// A template's name: a DNS label of lower-case letters, digits and inner dashes, 1 to 46 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(Arc<str>);

/// An instance's id, which is also its host label: the template's name, a dash, and 80 random bits in lower-case
/// base32. Unguessable, so knowing it is the right to use it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    text: Arc<str>,
    /// Where the template's name ends.
    template_len: u8,
}

/// A server's name among those that share a store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// What makes a claim idempotent: the same token gets the same instance again. 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimToken(pub u128);

fn label(s: &str, max: usize) -> bool {
    let b = s.as_bytes();
    (1..=max).contains(&b.len())
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Ids are the only secret between visitors. Without randomness there is no safe way to go on.
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

impl TemplateName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, MalformedName> {
        if label(name, MAX_TEMPLATE_NAME) {
            Ok(Self(name.into()))
        } else {
            Err(MalformedName(
                "a template's name is 1 to 46 lower-case letters, digits and dashes, no dash first or last",
            ))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that a map keyed by template can be asked with [`InstanceId::template`]; equal, ordered and hashed alike.
impl Borrow<str> for TemplateName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl InstanceId {
    /// A fresh id from the operating system's random source.
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

    /// Reads an id; upper-case letters are refused, as in a canonical host.
    pub fn parse(text: &str) -> Result<Self, MalformedName> {
        const WRONG: MalformedName = MalformedName("no instance has an id of this form");
        let (template, rest) = text.rsplit_once('-').ok_or(WRONG)?;
        if !label(template, MAX_TEMPLATE_NAME)
            || rest.len() != RANDOM_CHARS
            || !rest.bytes().all(|c| ALPHABET.contains(&c))
        {
            return Err(WRONG);
        }
        Ok(Self { text: text.into(), template_len: template.len() as u8 })
    }

    /// The id as text, which is the host label.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id as text that can be kept without copying it.
    pub fn shared(&self) -> Arc<str> {
        self.text.clone()
    }

    /// The name of the template it was made from, as the id says.
    pub fn template(&self) -> &str {
        &self.text[..usize::from(self.template_len)]
    }
}

impl NodeId {
    /// A fresh name.
    pub fn random() -> Self {
        let hex = hex::encode(random::<6>());
        Self(format!("node-{hex}").into())
    }

    /// Checks and takes a name: a DNS label of at most 63 bytes.
    pub fn parse(text: &str) -> Result<Self, MalformedName> {
        if label(text, 63) {
            Ok(Self(text.into()))
        } else {
            Err(MalformedName("a node's name is a DNS label"))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClaimToken {
    /// A fresh token.
    pub fn random() -> Self {
        Self(u128::from_le_bytes(random::<16>()))
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
    fn ids_do_not_repeat() {
        let template = TemplateName::new("t").unwrap();
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| InstanceId::random(&template)).collect();
        assert_eq!(ids.len(), 1000);
    }

    proptest! {
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
