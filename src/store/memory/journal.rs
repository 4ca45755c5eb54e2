//! What visitors have, on disk, for instances that outlive the server.
//!
//! A file of lines, each a change of the routes in JSON, in the order of the steps. Read in that order they lead to
//! every instance that a visitor has or lately had. A step is written before its caller hears of it, and not waited for
//! until it is on the disk: what is written outlives the process, and no instance outlives the host.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    table: HashMap<InstanceId, Instance>,
    /// Lines in the file.
    lines: usize,
    /// Whether the last line could not be written, so that the file no longer says how things are.
    torn: bool,
}

impl Journal {
    /// Reads a journal, or begins one, and returns with it what the visitors had.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Vec<Instance>)> {
        let table = read(&path)?;
        let file = write(&path, &table)?;
        let living = table.values().cloned().collect();
        Ok((Self { path, file, lines: table.len(), table, torn: false }, living))
    }

    /// Writes a change down. What the disk refuses is told, and tried again with the next.
    pub(super) fn note(&mut self, change: &RouteChange) {
        // What was taken back is nobody's; the next server has no use for it.
        let gone;
        let change = match change {
            RouteChange::Set(instance) if instance.lease().is_none() => {
                gone = RouteChange::Gone(instance.id().clone());
                &gone
            }
            change => change,
        };
        change.clone().apply(&mut self.table);
        let crowded = self.lines > 2 * (self.table.len() + SPARE_LINES);
        let written = if self.torn || crowded { self.renew() } else { self.append(change) };
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

    fn append(&mut self, change: &RouteChange) -> io::Result<()> {
        // In one piece, so that a kill leaves all of it or nothing.
        self.file.write_all(&line(change)?)?;
        self.lines += 1;
        Ok(())
    }

    fn renew(&mut self) -> io::Result<()> {
        self.file = write(&self.path, &self.table)?;
        self.lines = self.table.len();
        self.torn = false;
        Ok(())
    }
}

fn line(change: &RouteChange) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(change)?;
    line.push(b'\n');
    Ok(line)
}

fn read(path: &Path) -> io::Result<HashMap<InstanceId, Instance>> {
    let mut table = HashMap::new();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(table),
        file => file?,
    };
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        match serde_json::from_slice::<RouteChange>(&line?) {
            Ok(change) => change.apply(&mut table),
            // Half a line is where the disk was full; what follows was written after it was not.
            Err(error) => {
                tracing::warn!(file = %path.display(), line = number + 1, %error, "a line of the journal is left out");
            }
        }
    }
    Ok(table)
}

/// Puts a file of only what still counts in the place of the other, and returns it to be written on.
fn write(path: &Path, table: &HashMap<InstanceId, Instance>) -> io::Result<File> {
    let draft = path.with_extension("draft");
    // Whoever knows a claim's token gets its instance.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut lines = BufWriter::new(file);
    for instance in table.values() {
        lines.write_all(&line(&RouteChange::Set(instance.clone()))?)?;
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
        Journal::open(path.to_owned()).unwrap().1
    }

    #[test]
    fn what_was_noted_is_read_again_and_what_is_gone_is_not() {
        let path = file();
        let (mut journal, found) = Journal::open(path.clone()).unwrap();
        assert_eq!(found, []);
        let (a, b) = (assigned(), assigned());
        journal.note(&RouteChange::Set(a.clone()));
        journal.note(&RouteChange::Set(b.clone()));
        journal.note(&RouteChange::Gone(a.id().clone()));
        assert_eq!(reopened(&path), std::slice::from_ref(&b));
        assert_eq!(reopened(&path), [b], "reading it changes nothing");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn half_a_line_costs_nothing_but_itself() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let (a, b) = (assigned(), assigned());
        journal.note(&RouteChange::Set(a.clone()));
        journal.file.write_all(b"{\"set\":{\"id\":\n").unwrap();
        journal.note(&RouteChange::Set(b.clone()));
        let found = reopened(&path);
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b), "{found:?}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let path = file();
        let (mut journal, _) = Journal::open(path.clone()).unwrap();
        let kept = assigned();
        journal.note(&RouteChange::Set(kept.clone()));
        let other = assigned();
        for _ in 0..3 * SPARE_LINES {
            journal.note(&RouteChange::Set(other.clone()));
            journal.note(&RouteChange::Gone(other.id().clone()));
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
        journal.note(&RouteChange::Set(a.clone()));
        assert!(journal.torn);
        journal.note(&RouteChange::Set(b.clone()));
        let found = reopened(&path);
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b), "{found:?}");
        fs::remove_file(path).unwrap();
    }
}
