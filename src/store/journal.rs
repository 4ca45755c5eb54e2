//! The file of ready and visitors' instances, for instances that outlive the server process.
//!
//! Each line is a JSON object: a record after a step, or the confirmation of some claims, in the order of the steps.
//! Applied in that order, the lines lead to every instance that is ready, or is or recently was assigned. A line is written before the
//! caller of the step gets its answer, but not synced to the disk: what is written survives the process, and no
//! instance survives the host.
//!
//! The files of older versions must stay readable: [`JournalLine`] and the record in it only gain names.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RouteChange;
use crate::instance::{Instance, InstanceId};

/// The file is rewritten when it has more than twice as many lines as there are instances and spare lines.
const SPARE_LINES: usize = 4096;

/// An open journal, and the instances that its lines lead to.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    instances: JournaledInstances,
    /// Lines in the file.
    line_count: usize,
    /// Whether the last line could not be written, so that the file lacks a change.
    is_outdated: bool,
}

/// A line of the file. The names are part of the format.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JournalLine {
    /// The record after a change. The claim of its instance counts as confirmed.
    Set(Instance),
    /// The record after a change. The claim of its instance is unconfirmed.
    Claimed(Instance),
    /// The claims of these instances were confirmed.
    Confirmed(Vec<InstanceId>),
    /// The instance is gone, or its claim was undone.
    Gone(InstanceId),
}

#[derive(Debug, Default)]
struct JournaledInstances {
    records: HashMap<InstanceId, Instance>,
    unconfirmed: HashSet<InstanceId>,
}

impl JournaledInstances {
    fn apply(&mut self, line: JournalLine) {
        match line {
            JournalLine::Set(instance) => {
                self.unconfirmed.remove(instance.id());
                self.records.insert(instance.id().clone(), instance);
            }
            JournalLine::Claimed(instance) => {
                self.unconfirmed.insert(instance.id().clone());
                self.records.insert(instance.id().clone(), instance);
            }
            JournalLine::Confirmed(ids) => ids.iter().for_each(|id| {
                self.unconfirmed.remove(id);
            }),
            JournalLine::Gone(id) => {
                self.unconfirmed.remove(&id);
                self.records.remove(&id);
            }
        }
    }

    /// Returns the shortest journal that leads to these instances: one line for each record.
    fn lines(&self) -> impl Iterator<Item = JournalLine> {
        self.records.values().map(|record| match self.unconfirmed.contains(record.id()) {
            true => JournalLine::Claimed(record.clone()),
            false => JournalLine::Set(record.clone()),
        })
    }
}

impl Journal {
    /// Opens or creates a journal. Returns with it the instances, each with whether its claim is unconfirmed.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Vec<(Instance, bool)>)> {
        let instances = read(&path)?;
        let file = rewrite(&path, &instances)?;
        let records = instances.records.values();
        let found = records.map(|it| (it.clone(), instances.unconfirmed.contains(it.id()))).collect();
        let line_count = instances.records.len();
        Ok((Self { path, file, instances, line_count, is_outdated: false }, found))
    }

    /// Writes a change; `is_claim` says that it is a claim, which is unconfirmed. A failed write is logged once, and
    /// the next call rewrites the file.
    pub(super) fn record_change(&mut self, change: &RouteChange, is_claim: bool) {
        self.record(match change {
            RouteChange::Set(instance) if is_claim => JournalLine::Claimed(instance.clone()),
            RouteChange::Set(instance) => JournalLine::Set(instance.clone()),
            RouteChange::Gone(id) => JournalLine::Gone(id.clone()),
        });
    }

    /// Writes that the claims of these instances were confirmed.
    pub(super) fn record_confirmed(&mut self, ids: &[InstanceId]) {
        let ids: Vec<_> = ids.iter().filter(|id| self.instances.unconfirmed.contains(*id)).cloned().collect();
        if !ids.is_empty() {
            self.record(JournalLine::Confirmed(ids));
        }
    }

    fn record(&mut self, line: JournalLine) {
        let is_too_long = self.line_count > 2 * (self.instances.records.len() + SPARE_LINES);
        let must_rewrite = self.is_outdated || is_too_long;
        let text = if must_rewrite { Ok(Vec::new()) } else { text(&line) };
        self.instances.apply(line);
        let written = if must_rewrite { self.rewrite() } else { text.and_then(|text| self.append(&text)) };
        if let Err(error) = written {
            if !self.is_outdated {
                tracing::error!(
                    file = %self.path.display(), %error,
                    "failed to write journal, a restart now would lose instances"
                );
            }
            self.is_outdated = true;
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        // One write, so that a kill leaves the whole line or none of it.
        self.file.write_all(text)?;
        self.line_count += 1;
        Ok(())
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.file = rewrite(&self.path, &self.instances)?;
        self.line_count = self.instances.records.len();
        self.is_outdated = false;
        Ok(())
    }
}

fn text(line: &JournalLine) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

fn read(path: &Path) -> io::Result<JournaledInstances> {
    let mut instances = JournaledInstances::default();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(instances),
        file => file?,
    };
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        match serde_json::from_slice::<JournalLine>(&line?) {
            Ok(line) => instances.apply(line),
            // A full disk leaves a partial line; the lines after it were written when there was room again.
            Err(error) => {
                tracing::warn!(file = %path.display(), line = number + 1, %error, "journal line skipped");
            }
        }
    }
    Ok(instances)
}

/// Replaces the file by the shortest one that leads to the same instances, and returns it, open for appending.
fn rewrite(path: &Path, instances: &JournaledInstances) -> io::Result<File> {
    let draft = path.with_extension("draft");
    // Readable by the owner only: with the token of a claim anyone gets its instance.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut lines = BufWriter::new(file);
    for line in instances.lines() {
        lines.write_all(&text(&line)?)?;
    }
    let file = lines.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(draft, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;
    use crate::instance::{ClaimToken, Endpoint, NodeId, TemplateName};
    use std::time::Duration;

    fn file() -> PathBuf {
        std::env::temp_dir().join(format!("try-it-now-journal-{}", NodeId::random()))
    }

    fn assigned() -> Instance {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let new = Instance::warming(id, NodeId::random(), u64::MAX, Millis(1));
        let ready = new.offered(Endpoint::Sealed { namespace: 7, port: 80 }).unwrap();
        ready.assigned(ClaimToken(u128::MAX), Millis(2), Duration::from_secs(60)).unwrap()
    }

    fn reopened(path: &Path) -> Vec<Instance> {
        let found = Journal::open(path.to_owned()).unwrap().1;
        found.into_iter().map(|(it, _)| it).collect()
    }

    #[test]
    fn recorded_instances_are_read_again_and_those_that_are_gone_are_not() {
        let path = file();
        let (mut journal, found) = Journal::open(path.clone()).unwrap();
        assert_eq!(found, []);
        let (a, b) = (assigned(), assigned());
        journal.record_change(&RouteChange::Set(a.clone()), false);
        journal.record_change(&RouteChange::Set(b.clone()), false);
        journal.record_change(&RouteChange::Gone(a.id().clone()), false);
        assert_eq!(reopened(&path), std::slice::from_ref(&b));
        assert_eq!(reopened(&path), [b], "reading it changes nothing");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn whether_a_claim_is_confirmed_is_read_again() {
        let path = file();
        let unconfirmed = || {
            let found = Journal::open(path.clone()).unwrap().1;
            found.into_iter().filter(|(_, unconfirmed)| *unconfirmed).map(|(it, _)| it).collect::<Vec<_>>()
        };
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b, c) = (assigned(), assigned(), assigned());
        for it in [&a, &b, &c] {
            journal.record_change(&RouteChange::Set(it.clone()), true);
        }
        assert_eq!(unconfirmed().len(), 3);
        let mut journal = Journal::open(path.clone()).unwrap().0;
        journal.record_confirmed(&[a.id().clone(), a.id().clone()]);
        let longer = b.extended(Duration::from_secs(1), Duration::from_secs(99), Millis(3)).unwrap().unwrap();
        journal.record_change(&RouteChange::Set(longer), false);
        assert_eq!(unconfirmed(), std::slice::from_ref(&c));
        assert_eq!(unconfirmed(), std::slice::from_ref(&c), "reading it changes nothing");
        let mut journal = Journal::open(path.clone()).unwrap().0;
        journal.record_change(&RouteChange::Set(c.claim_undone(Millis(4)).unwrap()), false);
        assert_eq!(unconfirmed(), []);
        let states =
            reopened(&path).iter().map(|it| it.state().name()).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(states, ["assigned", "ready"].into(), "an undone claim leaves a ready instance");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_record_of_an_older_version_is_read_without_a_visitor_and_a_new_one_with_it() {
        let path = file();
        let old = concat!(
            r#"{"set":{"id":"shop-aaaaaaaaaaaaaaaa","node":"n","revision":1,"generation":3,"created_at":1,"#,
            r#""life":{"assigned":{"endpoint":{"direct":"127.0.0.1:4000"},"#,
            r#""lease":{"token":7,"assigned_at":2,"deadline":60002}}}}}"#,
        );
        fs::write(&path, format!("{old}\n")).unwrap();
        let found = reopened(&path);
        assert!(
            matches!(found[0].state(), crate::instance::State::Assigned { visitor: None, .. }),
            "{found:?}"
        );
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let ready = found[0].claim_undone(Millis(3)).unwrap();
        let visitor = crate::instance::Visitor::new("192.0.2.1");
        let counted = ready.assigned_to(&visitor, ClaimToken(8), Millis(4), Duration::from_secs(60)).unwrap();
        journal.record_change(&RouteChange::Set(counted.clone()), false);
        assert_eq!(reopened(&path), [counted]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_partial_line_loses_only_itself() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b) = (assigned(), assigned());
        journal.record_change(&RouteChange::Set(a.clone()), false);
        journal.file.write_all(b"{\"set\":{\"id\":\n").unwrap();
        journal.record_change(&RouteChange::Set(b.clone()), false);
        let found = reopened(&path);
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b), "{found:?}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_file_does_not_grow_without_bound() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let kept = assigned();
        journal.record_change(&RouteChange::Set(kept.clone()), false);
        let other = assigned();
        for _ in 0..3 * SPARE_LINES {
            journal.record_change(&RouteChange::Set(other.clone()), false);
            journal.record_change(&RouteChange::Gone(other.id().clone()), false);
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 2 * (SPARE_LINES + 2), "{lines}");
        assert_eq!(reopened(&path), [kept]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_change_that_a_full_disk_refused_is_written_with_the_next_change() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b) = (assigned(), assigned());
        journal.file = File::options().write(true).open("/dev/full").unwrap();
        journal.record_change(&RouteChange::Set(a.clone()), false);
        assert!(journal.is_outdated);
        journal.record_change(&RouteChange::Set(b.clone()), false);
        let found = reopened(&path);
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b), "{found:?}");
        fs::remove_file(path).unwrap();
    }
}
