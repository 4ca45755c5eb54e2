//! A visitor as limits count visitors.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The networks by which one client is counted, narrowest first. A limit holds in each of them.
///
/// The text names the networks with commas in between. A network whose clients may together use a multiple of the
/// limits has that factor and a `*` in front: `2001:db8:1:2::/64,4*2001:db8:1::/56`. A text without commas and factors
/// is one network. Records of instances contain the text, so what it means must not change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Visitor(Arc<str>);

/// One of the networks of a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisitorNetwork<'a> {
    /// The name by which the network is counted.
    pub name: &'a str,
    /// How many times each limit the clients of the network may use together.
    pub factor: u32,
}

impl Visitor {
    /// Returns the visitor with that text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the visitor, counted by one more network too.
    #[must_use]
    pub fn within(&self, factor: u32, network: &str) -> Self {
        Self(format!("{},{factor}*{network}", self.0).into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the networks, narrowest first.
    pub fn networks(&self) -> impl Iterator<Item = VisitorNetwork<'_>> {
        self.0.split(',').map(|entry| {
            let wide = entry.split_once('*').and_then(|(factor, name)| Some((factor.parse().ok()?, name)));
            let (factor, name) = wide.unwrap_or((1, entry));
            VisitorNetwork { name, factor }
        })
    }
}

impl From<String> for Visitor {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<Visitor> for String {
    fn from(visitor: Visitor) -> String {
        visitor.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_has_the_networks_of_its_text() {
        let of = |visitor: &Visitor| {
            visitor.networks().map(|it| (it.name.to_owned(), it.factor)).collect::<Vec<_>>()
        };
        assert_eq!(of(&Visitor::new("192.0.2.1")), [("192.0.2.1".to_owned(), 1)]);
        let wide = Visitor::new("2001:db8::/64").within(4, "2001:db8::/56");
        assert_eq!(wide.as_str(), "2001:db8::/64,4*2001:db8::/56");
        assert_eq!(of(&wide), [("2001:db8::/64".to_owned(), 1), ("2001:db8::/56".to_owned(), 4)]);
    }
}
