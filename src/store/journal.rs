//! What visitors have, on disk, for instances that outlive the server.
//!
//! A file of lines, each a change of the routes in JSON, or the confirmation of some claims, in the order of the steps. Read in that order they lead to
//! every instance that a visitor has or lately had. A step is written before its caller hears of it, and not waited for
//! until it is on the disk: what is written outlives the process, and no instance outlives the host.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::instance::{Instance, InstanceId};
use crate::store::RouteChange;

/// The file may have this many lines more than there are instances, twice over, before it is written anew.
const SPARE_LINES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// What the lines lead to.
    table: Table,
    /// Lines in the file.
    lines: usize,
    /// Whether the last line could not be written, so that the file no longer says how things are.
    torn: bool,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The record as it is now; its visitor knows of it.
    Set(Instance),
    /// The same, and nobody knows whether its visitor was told.
    Claimed(Instance),
    /// The visitors of these were told.
    Confirmed(Vec<InstanceId>),
    /// The instance is gone, or nobody's again.
    Gone(InstanceId),
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<InstanceId, Instance>,
    unconfirmed: HashSet<InstanceId>,
}

impl Table {
    fn apply(&mut self, line: Line) {
        match line {
            Line::Set(instance) => {
                self.unconfirmed.remove(instance.id());
                self.records.insert(instance.id().clone(), instance);
            }
            Line::Claimed(instance) => {
                self.unconfirmed.insert(instance.id().clone());
                self.records.insert(instance.id().clone(), instance);
            }
            Line::Confirmed(ids) => ids.iter().for_each(|id| {
                self.unconfirmed.remove(id);
            }),
            Line::Gone(id) => {
                self.unconfirmed.remove(&id);
                self.records.remove(&id);
            }
        }
    }

    /// One line for each record.
    fn lines(&self) -> impl Iterator<Item = Line> {
        self.records.values().map(|record| match self.unconfirmed.contains(record.id()) {
            true => Line::Claimed(record.clone()),
            false => Line::Set(record.clone()),
        })
    }
}

impl Journal {
    /// Reads a journal, or begins one, and returns with it what the visitors had, and of each whether nobody knows that
    /// they were told.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Vec<(Instance, bool)>)> {
        let table = read(&path)?;
        let file = write(&path, &table)?;
        let living = table.records.values();
        let living = living.map(|it| (it.clone(), table.unconfirmed.contains(it.id()))).collect();
        Ok((Self { path, file, lines: table.records.len(), table, torn: false }, living))
    }

    /// Writes a change down, or a claim. What the disk refuses is told, and tried again with the next.
    pub(super) fn note(&mut self, change: &RouteChange, claimed: bool) {
        self.keep(match change {
            // What was taken back is nobody's; the next server has no use for it.
            RouteChange::Set(instance) if instance.lease().is_none() => Line::Gone(instance.id().clone()),
            RouteChange::Set(instance) if claimed => Line::Claimed(instance.clone()),
            RouteChange::Set(instance) => Line::Set(instance.clone()),
            RouteChange::Gone(id) => Line::Gone(id.clone()),
        });
    }

    /// Writes down that the claims of these were confirmed.
    pub(super) fn confirmed(&mut self, ids: &[InstanceId]) {
        let ids: Vec<_> = ids.iter().filter(|id| self.table.unconfirmed.contains(*id)).cloned().collect();
        if !ids.is_empty() {
            self.keep(Line::Confirmed(ids));
        }
    }

    fn keep(&mut self, line: Line) {
        let crowded = self.lines > 2 * (self.table.records.len() + SPARE_LINES);
        let renewed = self.torn || crowded;
        let text = if renewed { Ok(Vec::new()) } else { text(&line) };
        self.table.apply(line);
        let written = if renewed { self.renew() } else { text.and_then(|text| self.append(&text)) };
        if let Err(error) = written {
            if !self.torn {
                tracing::error!(
                    file = %self.path.display(), %error,
                    "what visitors have cannot be written down, and would be lost if this server ended now"
                );
            }
            self.torn = true;
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        // In one piece, so that a kill leaves all of it or nothing.
        self.file.write_all(text)?;
        self.lines += 1;
        Ok(())
    }

    fn renew(&mut self) -> io::Result<()> {
        self.file = write(&self.path, &self.table)?;
        self.lines = self.table.records.len();
        self.torn = false;
        Ok(())
    }
}

fn text(line: &Line) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

fn read(path: &Path) -> io::Result<Table> {
    let mut table = Table::default();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(table),
        file => file?,
    };
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        match serde_json::from_slice::<Line>(&line?) {
            Ok(line) => table.apply(line),
            // Half a line is where the disk was full; what follows was written after it was not.
            Err(error) => {
                tracing::warn!(file = %path.display(), line = number + 1, %error, "a line of the journal is left out");
            }
        }
    }
    Ok(table)
}

/// Puts a file of only what still counts in the place of the other, and returns it to be written on.
fn write(path: &Path, table: &Table) -> io::Result<File> {
    let draft = path.with_extension("draft");
    // Whoever knows a claim's token gets its instance.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut lines = BufWriter::new(file);
    for line in table.lines() {
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
    fn what_was_noted_is_read_again_and_what_is_gone_is_not() {
        let path = file();
        let (mut journal, found) = Journal::open(path.clone()).unwrap();
        assert_eq!(found, []);
        let (a, b) = (assigned(), assigned());
        journal.note(&RouteChange::Set(a.clone()), false);
        journal.note(&RouteChange::Set(b.clone()), false);
        journal.note(&RouteChange::Gone(a.id().clone()), false);
        assert_eq!(reopened(&path), std::slice::from_ref(&b));
        assert_eq!(reopened(&path), [b], "reading it changes nothing");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn whether_a_visitor_was_told_is_read_again() {
        let path = file();
        let unconfirmed = || {
            let found = Journal::open(path.clone()).unwrap().1;
            found.into_iter().filter(|(_, unconfirmed)| *unconfirmed).map(|(it, _)| it).collect::<Vec<_>>()
        };
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b, c) = (assigned(), assigned(), assigned());
        for it in [&a, &b, &c] {
            journal.note(&RouteChange::Set(it.clone()), true);
        }
        assert_eq!(unconfirmed().len(), 3);
        let mut journal = Journal::open(path.clone()).unwrap().0;
        journal.confirmed(&[a.id().clone(), a.id().clone()]);
        let longer = b.extended(Duration::from_secs(1), Duration::from_secs(99), Millis(3)).unwrap().unwrap();
        journal.note(&RouteChange::Set(longer), false);
        assert_eq!(unconfirmed(), std::slice::from_ref(&c));
        assert_eq!(unconfirmed(), std::slice::from_ref(&c), "reading it changes nothing");
        let mut journal = Journal::open(path.clone()).unwrap().0;
        journal.note(&RouteChange::Set(c.taken_back(Millis(4)).unwrap()), false);
        assert_eq!(reopened(&path).len(), 2, "what was taken back is nobody's");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn half_a_line_costs_nothing_but_itself() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b) = (assigned(), assigned());
        journal.note(&RouteChange::Set(a.clone()), false);
        journal.file.write_all(b"{\"set\":{\"id\":\n").unwrap();
        journal.note(&RouteChange::Set(b.clone()), false);
        let found = reopened(&path);
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b), "{found:?}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let kept = assigned();
        journal.note(&RouteChange::Set(kept.clone()), false);
        let other = assigned();
        for _ in 0..3 * SPARE_LINES {
            journal.note(&RouteChange::Set(other.clone()), false);
            journal.note(&RouteChange::Gone(other.id().clone()), false);
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 2 * (SPARE_LINES + 2), "{lines}");
        assert_eq!(reopened(&path), [kept]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_a_full_disk_refused_is_written_with_the_next() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b) = (assigned(), assigned());
        journal.file = File::options().write(true).open("/dev/full").unwrap();
        journal.note(&RouteChange::Set(a.clone()), false);
        assert!(journal.torn);
        journal.note(&RouteChange::Set(b.clone()), false);
        let found = reopened(&path);
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b), "{found:?}");
        fs::remove_file(path).unwrap();
    }
}
