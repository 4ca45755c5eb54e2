//! The names of databases and users. They are generated: nothing that a visitor or a template says is in them.

use ring::digest;

use crate::instance::{InstanceId, NodeId};
use crate::runtime::DatabaseName;

/// Characters of the part that stands for the node.
const NODE_CHARS: usize = 12;
/// Characters of the part that stands for the content of a seed.
const SEED_CHARS: usize = 16;
/// What begins that part. No instance's part has the length of both together.
const SEED: &str = "seed";

/// The names that belong to one node: `PREFIX_NODE_INSTANCE` for an instance's database and its user, and
/// `PREFIX_NODE_seedDIGEST` for the database that a seed was loaded into.
#[derive(Debug, Clone)]
pub(super) struct OwnNames {
    start: String,
}

impl OwnNames {
    /// Returns the names of a node. Nodes with different ids have no name in common, and none begins like another's.
    pub(super) fn new(prefix: &str, node: &NodeId) -> Self {
        Self { start: format!("{prefix}_{}_", &fingerprint(node.as_str().as_bytes())[..NODE_CHARS]) }
    }

    /// Returns what all names of the node begin with.
    pub(super) fn start(&self) -> &str {
        &self.start
    }

    /// Returns the name of an instance's database and user.
    pub(super) fn of_instance(&self, id: &InstanceId) -> DatabaseName {
        let (_, random) = id.as_str().rsplit_once('-').expect("an instance's id has a dash");
        DatabaseName(format!("{}{random}", self.start))
    }

    /// Returns the name of the database, and of the user for the time of loading, of a seed with this content.
    pub(super) fn of_seed(&self, content: &[u8]) -> DatabaseName {
        DatabaseName(format!("{}{SEED}{}", self.start, &hex::encode(content)[..SEED_CHARS]))
    }

    /// Returns whether one of these names is that of a seed.
    pub(super) fn is_of_seed(DatabaseName(name): &DatabaseName) -> bool {
        name.rsplit_once('_').is_some_and(|(_, part)| part.len() == SEED.len() + SEED_CHARS)
    }

    /// Returns whether a name on the server is one of this node's.
    pub(super) fn contain(&self, name: &str) -> bool {
        let is_part = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        name.strip_prefix(&self.start).is_some_and(|part| {
            let is_seed = part.len() == SEED.len() + SEED_CHARS && part.starts_with(SEED);
            (is_seed || part.len() == 16) && is_part(part)
        })
    }
}

/// Returns SHA-256 in hexadecimal characters.
fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{MAX_TEMPLATE_NAME, TemplateName};

    fn names(node: &str) -> OwnNames {
        OwnNames::new(&"p".repeat(20), &NodeId::parse(node).unwrap())
    }

    #[test]
    fn the_longest_names_fit_and_contain_nothing_of_the_template() {
        let template = TemplateName::new(&"x".repeat(MAX_TEMPLATE_NAME)).unwrap();
        let (own, id) = (names("n"), InstanceId::random(&template));
        let digest = digest::digest(&digest::SHA256, b"");
        for name in [own.of_instance(&id).0, own.of_seed(digest.as_ref()).0] {
            assert!(name.len() <= 64 && !name.contains("xxx"), "{name}");
            assert!(own.contain(&name), "{name}");
        }
    }

    #[test]
    fn a_node_owns_none_of_another_nodes_names_and_no_foreign_ones() {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let (one, two) = (names("node-1"), names("node-12"));
        assert!(!one.contain(&two.of_instance(&id).0));
        let start = one.start().to_owned();
        for foreign in ["", "mysql", &start, &format!("{start}shop"), &format!("{start}aaaaaaaaaaaaaaa%")] {
            assert!(!one.contain(foreign), "{foreign}");
        }
    }
}
