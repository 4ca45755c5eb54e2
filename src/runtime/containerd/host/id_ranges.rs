//! Ranges of user and group ids of this host, one for each instance. Inside its user namespace an instance sees its range
//! as the ids 0 to 65535, so its root is no user of this host, and two instances have no id in common.
//!
//! A range in use is a file whose name is the range's number. All nodes of a host share the folder, which is gone with
//! a restart of the host, as the instances are. So the next server knows the ranges of the instances that it adopts.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::shared_accounts;
use crate::runtime::{CleanScope, UserNamespaces};

/// The folder with a file for each range in use.
const FOLDER: &str = "/run/try-it-now/id-ranges";

/// Ids of a range.
pub(crate) const IDS: u32 = 1 << 16;

/// The first id of the first range. Above it are no ids of systemd's services and containers, nor, by default, of
/// `/etc/subuid`.
const FIRST: u32 = 0x7000_0000;

/// Ranges of this host. The ids behind them belong to systemd.
const COUNT: u32 = 4000;

/// The files that give ranges of ids to users of this host.
const SUBORDINATE_IDS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// A range of ids, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdRange(u32);

impl IdRange {
    /// Returns the id on this host of the instance's root.
    pub(crate) fn first(self) -> u32 {
        FIRST + self.0 * IDS
    }

    /// Returns the id on this host of an id of the instance. An id that the instance does not have becomes its user 65534.
    pub(crate) fn on_host(self, id: u32) -> u32 {
        self.first() + if id < IDS { id } else { IDS - 2 }
    }

    /// Returns the id of the instance for an id on this host; `None` if it is not in the range.
    pub(crate) fn inside(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first()).filter(|id| *id < IDS)
    }
}

/// The ranges of a host, as one node uses them.
#[derive(Debug)]
pub(crate) struct IdRanges {
    folder: PathBuf,
    node: String,
    mode: UserNamespaces,
    next: Mutex<u32>,
    /// Whether new instances get ranges.
    is_in_use: AtomicBool,
    /// Whether an instance with a range has started.
    is_proven: AtomicBool,
}

/// Returns why instances of this host cannot have ranges; `None` if they can as far as this program knows.
pub fn refusal() -> Option<String> {
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if allowed.trim().parse::<u64>().unwrap_or_default() == 0 {
        return Some("the kernel forbids user namespaces (user.max_user_namespaces is 0)".to_owned());
    }
    for file in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        if !has_all_ids(&text) {
            return Some(format!(
                "this program runs in a user namespace that lacks the ids of instances ({file})"
            ));
        }
    }
    SUBORDINATE_IDS.into_iter().find_map(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        first_conflict(&text).map(|line| format!("{file} gives ids of instances to users: {line}"))
    })
}

/// Logs why instances have no user namespaces although they are not switched off.
pub(crate) fn warn_of(error: &dyn std::fmt::Display) {
    tracing::warn!(%error, "instances have no user namespaces: their root is root of this host");
}

impl IdRanges {
    /// Returns the ranges of this host for a node. New instances get none before [`IdRanges::enable`].
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(node: &str, mode: UserNamespaces) -> io::Result<Self> {
        let random = getrandom::u32().map_err(io::Error::other)?;
        Ok(Self::at(Path::new(FOLDER), node, mode, random % COUNT))
    }

    fn at(folder: &Path, node: &str, mode: UserNamespaces, next: u32) -> Self {
        Self {
            folder: folder.to_owned(),
            node: node.to_owned(),
            mode,
            next: Mutex::new(next),
            is_in_use: AtomicBool::new(false),
            is_proven: AtomicBool::new(false),
        }
    }

    /// Gives ranges to new instances from now on, unless instances have none. Where this host cannot do it and the mode
    /// is [`UserNamespaces::Auto`], this is logged.
    ///
    /// # Errors
    /// They are required, and the folder cannot be written, the kernel forbids user namespaces, or users of this host
    /// have ids of the ranges.
    pub(crate) fn enable(&self) -> io::Result<()> {
        match self.mode {
            UserNamespaces::Off => Ok(()),
            UserNamespaces::Auto => {
                self.try_enable().unwrap_or_else(|error| warn_of(&error));
                Ok(())
            }
            UserNamespaces::Required => self.try_enable(),
        }
    }

    fn try_enable(&self) -> io::Result<()> {
        if let Some(why) = refusal() {
            return Err(io::Error::other(why));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        shared_accounts::raise_inotify_totals(COUNT);
        self.is_in_use.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives no ranges to new instances from now on.
    pub(crate) fn disable(&self) {
        self.is_in_use.store(false, Ordering::Release);
    }

    /// Returns whether new instances get ranges.
    pub(crate) fn is_in_use(&self) -> bool {
        self.is_in_use.load(Ordering::Acquire)
    }

    /// Records that an instance with a range has started, so this host can do it.
    pub(crate) fn prove(&self) {
        self.is_proven.store(true, Ordering::Release);
    }

    /// Returns whether an instance may start without a range because its start with one failed.
    pub(crate) fn may_do_without(&self) -> bool {
        self.mode == UserNamespaces::Auto && !self.is_proven.load(Ordering::Acquire)
    }

    /// Returns a range that no instance of this host uses.
    ///
    /// # Errors
    /// All ranges are in use, or the folder cannot be written.
    pub(crate) fn assign(&self, id: &str) -> io::Result<IdRange> {
        for _ in 0..COUNT {
            let number = {
                let mut next = self.next.lock();
                let number = *next;
                *next = (number + 1) % COUNT;
                number
            };
            match File::create_new(self.file(IdRange(number))) {
                Ok(mut file) => {
                    file.write_all(self.owner(id).as_bytes())?;
                    return Ok(IdRange(number));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // `clean` has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("all ranges of user ids are in use"))
    }

    /// Makes a range free again. No process may have ids of it.
    pub(crate) fn release(&self, range: IdRange) {
        let _ = fs::remove_file(self.file(range));
    }

    /// Returns the range of an instance that an earlier server of this node started.
    pub(crate) fn of_instance(&self, id: &str) -> Option<IdRange> {
        let owner = self.owner(id);
        self.used().find(|(_, found)| *found == owner).map(|(range, _)| range)
    }

    /// Makes the ranges of this node free whose instances are not in `kept`.
    pub(crate) fn release_others(&self, kept: impl Fn(&str) -> bool) {
        for (range, owner) in self.used() {
            if owner.split_once(' ').is_some_and(|(node, id)| node == self.node && !kept(id)) {
                self.release(range);
            }
        }
    }

    /// Returns the first range, for tests of what has ids.
    #[cfg(test)]
    pub(crate) fn first_of_host() -> IdRange {
        IdRange(0)
    }

    fn used(&self) -> impl Iterator<Item = (IdRange, String)> {
        used_in(&self.folder)
    }

    fn owner(&self, id: &str) -> String {
        format!("{} {id}", self.node)
    }

    fn file(&self, range: IdRange) -> PathBuf {
        file_in(&self.folder, range)
    }
}

/// Makes the ranges of the nodes in `scope` free, for `clean`.
pub(crate) fn release_all_of(scope: &CleanScope) {
    release_all_in(Path::new(FOLDER), scope);
}

fn release_all_in(folder: &Path, scope: &CleanScope) {
    if *scope == CleanScope::All {
        let _ = fs::remove_dir_all(folder);
        return;
    }
    for (range, owner) in used_in(folder) {
        if owner.split_once(' ').is_some_and(|(node, _)| scope.contains(node)) {
            let _ = fs::remove_file(file_in(folder, range));
        }
    }
    // Only an empty folder is removed.
    let _ = fs::remove_dir(folder);
}

/// Returns the ranges in use, each with its owner: the node and the id of the instance.
fn used_in(folder: &Path) -> impl Iterator<Item = (IdRange, String)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((IdRange(number), fs::read_to_string(entry.path()).ok()?))
    })
}

fn file_in(folder: &Path, range: IdRange) -> PathBuf {
    folder.join(range.0.to_string())
}

/// Returns whether this text of `/proc/self/uid_map`, lines of `inside outside count`, has all ids of our ranges.
fn has_all_ids(text: &str) -> bool {
    let (ours, end) = (u64::from(FIRST), u64::from(FIRST) + u64::from(COUNT) * u64::from(IDS));
    text.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if first <= ours && first.saturating_add(count) >= end)
    })
}

/// Returns the first line, `user:first:count`, that has ids of our ranges.
fn first_conflict(text: &str) -> Option<&str> {
    let (ours, end) = (u64::from(FIRST), u64::from(FIRST) + u64::from(COUNT) * u64::from(IDS));
    text.lines().find(|line| {
        let mut numbers = line.split(':').skip(1).map(|number| number.trim().parse::<u64>());
        let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else { return false };
        first < end && first.saturating_add(count) > ours
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    #[test]
    fn two_nodes_of_a_host_never_have_the_same_range_and_the_next_server_knows_them() {
        let folder = std::env::temp_dir().join(format!("try-it-now-ids-{}", NodeId::random()));
        let (a, b) = (
            IdRanges::at(&folder, "a", UserNamespaces::Auto, COUNT - 1),
            IdRanges::at(&folder, "b", UserNamespaces::Auto, COUNT - 1),
        );
        let first = a.assign("shop-1").unwrap();
        let second = b.assign("shop-1").unwrap();
        assert_ne!(first, second);
        let next_server = IdRanges::at(&folder, "a", UserNamespaces::Auto, COUNT - 1);
        assert_eq!(next_server.of_instance("shop-1"), Some(first));
        assert_eq!(next_server.of_instance("shop-2"), None);
        assert_ne!(next_server.assign("shop-2").unwrap(), first);
        next_server.release_others(|id| id == "shop-2");
        assert_eq!(next_server.of_instance("shop-1"), None);
        assert_eq!(b.of_instance("shop-1"), Some(second));
        let node = |name: &str| CleanScope::Nodes(vec![NodeId::parse(name).unwrap()]);
        release_all_in(&folder, &node("a"));
        assert_eq!((next_server.of_instance("shop-2"), b.of_instance("shop-1")), (None, Some(second)));
        release_all_in(&folder, &node("b"));
        assert!(!folder.exists());
    }

    #[test]
    fn ids_outside_of_a_range_are_its_last_user_but_one() {
        let range = IdRange(1);
        assert_eq!(range.inside(range.on_host(33)), Some(33));
        assert_eq!(range.inside(range.on_host(70_000)), Some(65_534));
        assert_eq!(range.inside(33), None);
        assert_eq!(range.inside(range.first() + IDS), None);
        assert!(IdRange(COUNT - 1).on_host(IDS - 1) < 0x7fff_0000);
    }

    #[test]
    fn a_namespace_without_the_ids_of_instances_is_noticed() {
        assert!(has_all_ids("         0          0 4294967295\n"));
        assert!(!has_all_ids("         0     100000      65536\n"));
        assert!(!has_all_ids("0 0 1000\n1000 1000 1879048193\n"));
        assert!(!has_all_ids(""));
    }

    #[test]
    fn only_where_it_is_not_required_an_instance_starts_without_ids_until_one_has_started_with_them() {
        let ranges = |mode| IdRanges::at(Path::new("/nowhere"), "a", mode, 0);
        assert!(!ranges(UserNamespaces::Required).may_do_without());
        let auto = ranges(UserNamespaces::Auto);
        assert!(auto.may_do_without());
        auto.prove();
        assert!(!auto.may_do_without());
        // None where no folder can be made.
        for mode in [UserNamespaces::Off, UserNamespaces::Auto] {
            let ranges = IdRanges::at(Path::new("/proc/self/ids"), "a", mode, 0);
            ranges.enable().unwrap();
            assert!(!ranges.is_in_use());
        }
        IdRanges::at(Path::new("/proc/self/ids"), "a", UserNamespaces::Required, 0).enable().unwrap_err();
    }

    #[test]
    fn ids_that_belong_to_users_of_the_host_are_noticed() {
        assert_eq!(first_conflict("a:100000:65536\nb:524288:1000\n"), None);
        assert_eq!(first_conflict("a:100000:65536\nb:1879048000:1000"), Some("b:1879048000:1000"));
        assert_eq!(first_conflict("a:1:4294967294"), Some("a:1:4294967294"));
        assert_eq!(first_conflict("a\n\n# a:b:c"), None);
    }
}
