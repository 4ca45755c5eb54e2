//! The users and groups of an image, and which of them a container runs as. Pure.
//!
//! The rules are Docker's: a name is looked up in the image's own `/etc/passwd` and `/etc/group`, a number need not be
//! there, and the first entry that fits counts.

use std::collections::BTreeSet;

/// The greatest number of a user or group.
const MAX_ID: u32 = i32::MAX as u32;

/// The home folder of a user that the image does not know.
const DEFAULT_HOME: &str = "/";

/// The content of an image's `/etc/passwd` and `/etc/group`; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UserFiles {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// The user that a container's processes begin as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups: the primary one and further ones.
    pub(crate) groups: Vec<u32>,
    /// The home folder.
    pub(crate) home: String,
}

/// A line of `/etc/passwd`.
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of `/etc/group`.
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl UserFiles {
    /// Returns the user of a text such as `node`, `1000`, `node:www-data` or `1000:33`. An empty text means root.
    ///
    /// A user by itself has the primary group and the further groups of the files. With an explicit group there are no
    /// further groups.
    ///
    /// # Errors
    /// A name is in neither file, or a number is out of range; the text says which.
    pub(crate) fn find(&self, user: &str) -> Result<ContainerUser, String> {
        let (name, group) = user.split_once(':').unwrap_or((user, ""));
        let name = if name.is_empty() { "0" } else { name };
        let number = id(name)?;
        let entry = self.users().find(|entry| number.map_or(entry.name == name, |uid| entry.uid == uid));
        let uid = match (&entry, number) {
            (Some(entry), _) => entry.uid,
            (None, Some(uid)) => uid,
            (None, None) => {
                return Err(format!("unable to find user {name}: no matching entries in passwd file"));
            }
        };
        let home = entry.as_ref().map(|entry| entry.home).filter(|home| !home.is_empty());
        let (gid, further) = match group {
            "" => {
                let own_name = entry.as_ref().map(|entry| entry.name);
                let is_member = |entry: &GroupEntry<'_>| {
                    own_name.is_some_and(|own| entry.members.split(',').any(|member| member.trim() == own))
                };
                let further: Vec<u32> = self.groups().filter(is_member).map(|entry| entry.gid).collect();
                (entry.as_ref().map_or(0, |entry| entry.gid), further)
            }
            name => (self.find_group(name)?, Vec::new()),
        };
        let mut seen = BTreeSet::new();
        let groups = [gid].into_iter().chain(further).filter(|gid| seen.insert(*gid)).collect();
        Ok(ContainerUser { uid, gid, groups, home: home.unwrap_or(DEFAULT_HOME).to_owned() })
    }

    fn find_group(&self, name: &str) -> Result<u32, String> {
        let number = id(name)?;
        let entry = self.groups().find(|entry| number.map_or(entry.name == name, |gid| entry.gid == gid));
        entry
            .map(|entry| entry.gid)
            .or(number)
            .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))
    }

    /// Returns the entries of `/etc/passwd`. A line whose numbers are no numbers is no entry.
    fn users(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (id(fields.next()?).ok()??, id(fields.next()?).ok()??);
            Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
        })
    }

    /// Returns the entries of `/etc/group`. A line whose number is no number is no entry.
    fn groups(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let gid = id(fields.next()?).ok()??;
            Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
        })
    }
}

/// Returns the number that a text is; `None` if it is a name.
///
/// # Errors
/// The number is out of range.
fn id(text: &str) -> Result<Option<u32>, String> {
    match text.parse::<i64>() {
        Ok(number) => match u32::try_from(number).ok().filter(|number| *number <= MAX_ID) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("uids and gids must be in range 0-{MAX_ID}, and {text} is not")),
        },
        Err(error) => match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                Err(format!("uids and gids must be in range 0-{MAX_ID}, and {text} is not"))
            }
            _ => Ok(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> UserFiles {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x:zero:0::/:\nnode:x:1000:1001:Node,,,:/home/node:/bin/sh\n\
                      twin:x:1000:7::/twin:\nshort:x:5:6\n1234:x:77:77::/numbers:\n";
        let group = "root:x:0:\nwww-data:x:33:node,other\nnode:x:1001:\naudio:x:29: other , node \nbad:x:-3:node\nwheel:x:10:root\n";
        UserFiles { passwd: passwd.to_owned(), group: group.to_owned() }
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<ContainerUser, String> {
        Ok(ContainerUser { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn users_and_groups_are_those_that_docker_finds() {
        let files = files();
        for root in ["", "root", "0", ":"] {
            assert_eq!(files.find(root), user(0, 0, &[0, 10], "/root"), "{root:?}");
        }
        for node in ["node", "1000"] {
            assert_eq!(files.find(node), user(1000, 1001, &[1001, 33, 29], "/home/node"), "{node}");
        }
        assert_eq!(files.find("node:www-data"), user(1000, 33, &[33], "/home/node"));
        assert_eq!(files.find("1000:www-data"), user(1000, 33, &[33], "/home/node"));
        assert_eq!(files.find("node:1000"), user(1000, 1000, &[1000], "/home/node"));
        assert_eq!(files.find(":33"), user(0, 33, &[33], "/root"));
        assert_eq!(files.find("4000"), user(4000, 0, &[0], "/"));
        assert_eq!(files.find("4000:4001"), user(4000, 4001, &[4001], "/"));
        assert_eq!(files.find("short"), user(5, 6, &[6], "/"));
        // A number is never a name.
        assert_eq!(files.find("1234"), user(1234, 0, &[0], "/"));
    }

    #[test]
    fn an_image_without_the_files_has_numbers_only() {
        let none = UserFiles::default();
        assert_eq!(none.find(""), user(0, 0, &[0], "/"));
        assert_eq!(none.find("1000:33"), user(1000, 33, &[33], "/"));
        none.find("root").unwrap_err();
    }

    #[test]
    fn a_name_that_does_not_exist_and_a_number_out_of_range_are_errors_and_never_root() {
        let files = files();
        let error = |text: &str| files.find(text).unwrap_err();
        assert_eq!(error("nosuch"), "unable to find user nosuch: no matching entries in passwd file");
        assert_eq!(error("broken"), "unable to find user broken: no matching entries in passwd file");
        assert_eq!(error("node:nosuch"), "unable to find group nosuch: no matching entries in group file");
        assert_eq!(
            error("node:www-data:x"),
            "unable to find group www-data:x: no matching entries in group file"
        );
        for number in ["-1", "2147483648", "4294967296", "99999999999999999999", "0:-1", "0:4294967295"] {
            assert!(error(number).starts_with("uids and gids must be in range 0-2147483647"), "{number}");
        }
    }
}
