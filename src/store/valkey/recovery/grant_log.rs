//! Where this server writes down what it knows, before anybody hears of it.
//!
//! What is handed out here goes to a file too, and so does the tenure in which that was so: a server that is started
//! again under the same tenure need tell the store nothing, for the store has lost nothing since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::local_view::LocalView;
use crate::clock::Millis;
use crate::instance::{Instance, InstanceId, NodeId, RETENTION, State};
use crate::store::StoreError;
use crate::store::journal::Journal;

/// Which report of what is known came last. An answer to a question from before it came too late to be part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReportGeneration(u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct GrantLog {
    pub(crate) known: LocalView,
    era: u64,
    /// The tenure that has been told all of it.
    tenure: Option<String>,
    /// The highest epoch seen.
    pub(crate) epoch: u64,
    journal: Option<(Journal, PathBuf)>,
}

/// What is told of an answer that came too late: whether the step was done is open.
pub(crate) fn too_late() -> StoreError {
    StoreError::Unavailable("it was lost before its answer was written down".to_owned())
}

impl GrantLog {
    /// One without a file.
    pub(crate) fn new(own: NodeId) -> Self {
        Self { known: LocalView::new(own), era: 0, tenure: None, epoch: 0, journal: None }
    }

    /// One with a file, and with what that says and still counts at `now`.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn open(own: NodeId, file: &Path, now: Millis) -> io::Result<Self> {
        let (journal, granted) = Journal::open(file.to_owned())?;
        let mut notebook = Self::new(own);
        let counts = |(record, _): &&(Instance, bool)| match record.life() {
            State::Assigned { lease, .. } => now < lease.deadline() + RETENTION,
            State::Expired { at, .. } => now < *at + RETENTION,
            State::Warming | State::Ready { .. } => false,
        };
        let counted = granted.iter().filter(counts);
        counted.for_each(|(record, unconfirmed)| notebook.known.remember(record, !unconfirmed));
        let beside = file.with_extension("tenure");
        notebook.tenure = fs::read_to_string(&beside).ok();
        notebook.journal = Some((journal, beside));
        Ok(notebook)
    }

    /// Does something with what is known, and writes down what has to be.
    pub(crate) fn note<T>(&mut self, learn: impl FnOnce(&mut LocalView) -> T) -> T {
        let learnt = learn(&mut self.known);
        let notes = self.known.take_notes();
        if let Some((journal, _)) = &mut self.journal {
            notes.iter().for_each(|(change, claimed)| journal.note(change, *claimed));
        }
        learnt
    }

    /// The same with the answer to a question of that era.
    ///
    /// # Errors
    /// What is known was told to a store since: it may have lost what it answered, and must not be believed.
    pub(crate) fn note_in(
        &mut self,
        era: ReportGeneration,
        learn: impl FnOnce(&mut LocalView),
    ) -> Result<(), StoreError> {
        if self.era() != era {
            return Err(too_late());
        }
        self.note(learn);
        Ok(())
    }

    /// Visitors of these were told, said an answer to a question of that era.
    ///
    /// # Errors
    /// As with [`Notebook::note_in`].
    pub(crate) fn confirmed(&mut self, era: ReportGeneration, ids: &[InstanceId]) -> Result<(), StoreError> {
        self.note_in(era, |known| ids.iter().for_each(|id| known.confirm(id)))?;
        if let Some((journal, _)) = &mut self.journal {
            journal.confirmed(ids);
        }
        Ok(())
    }

    pub(crate) fn era(&self) -> ReportGeneration {
        ReportGeneration(self.era)
    }

    /// All that is known. From now on answers to questions of before come too late.
    pub(crate) fn begin_report(&mut self) -> Vec<(InstanceId, String)> {
        self.era += 1;
        self.known.report()
    }

    /// Whether what is known was told to that tenure, or learnt from it.
    pub(crate) fn is_told(&self, tenure: &str) -> bool {
        self.tenure.as_deref() == Some(tenure)
    }

    /// All that is known has been told to that tenure.
    pub(crate) fn told(&mut self, tenure: &str, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
        self.tenure = Some(tenure.to_owned());
        if let Some((_, file)) = &self.journal
            && let Err(error) = write(file, tenure)
        {
            // What stands there is older, or nothing: after a start all is told once more.
            tracing::warn!(file = %file.display(), %error, "the tenure of the store cannot be written down");
        }
    }
}

fn write(file: &Path, tenure: &str) -> io::Result<()> {
    let draft = file.with_extension("tenure-draft");
    fs::write(&draft, tenure)?;
    fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::instance::{ClaimToken, TemplateName};

    fn own() -> NodeId {
        NodeId::parse("own").unwrap()
    }

    fn file() -> PathBuf {
        std::env::temp_dir().join(format!("try-it-now-notebook-{}", NodeId::random()))
    }

    fn remove(file: &Path) {
        fs::remove_file(file).unwrap();
        let _ = fs::remove_file(file.with_extension("tenure"));
    }

    fn assigned(ttl: u64) -> Instance {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let ready = Instance::warming(id, own(), 1, Millis(1)).offered(([127, 0, 0, 1], 80).into()).unwrap();
        ready.assigned(ClaimToken::random(), Millis(10), Duration::from_millis(ttl)).unwrap()
    }

    #[test]
    fn an_answer_to_a_question_from_before_a_report_is_refused_and_not_learnt() {
        let mut notebook = GrantLog::new(own());
        let (before, first, second) = (notebook.era(), assigned(9), assigned(9));
        notebook.note_in(before, |known| known.learn(&first, true)).unwrap();
        assert_eq!(notebook.begin_report().len(), 1);
        assert_eq!(notebook.note_in(before, |known| known.learn(&second, true)), Err(too_late()));
        assert_eq!(notebook.begin_report().len(), 1);
        notebook.note_in(notebook.era(), |known| known.learn(&second, true)).unwrap();
        assert_eq!(notebook.begin_report().len(), 2);
    }

    #[test]
    fn what_was_handed_out_is_known_again_after_a_start_as_long_as_it_counts() {
        let file = file();
        let mut notebook = GrantLog::open(own(), &file, Millis(0)).unwrap();
        let (long, short, ended, other) = (assigned(90_000), assigned(5), assigned(90_000), assigned(90_000));
        for granted in [&long, &short, &ended] {
            notebook.note(|known| known.learn(granted, true));
        }
        notebook.note(|known| known.learn(&other, false));
        notebook.note(|known| known.end(&ended, Instant::now()));
        let later = Millis(20) + RETENTION;
        let again = GrantLog::open(own(), &file, later).unwrap().begin_report();
        assert_eq!(again.iter().map(|(id, _)| id).collect::<Vec<_>>(), [long.id()]);
        let again =
            GrantLog::open(own(), &file, later + Duration::from_millis(90_000)).unwrap().begin_report();
        assert!(again.is_empty());
        remove(&file);
    }

    #[test]
    fn after_a_start_it_is_known_which_tenure_was_told_all() {
        let file = file();
        let mut notebook = GrantLog::open(own(), &file, Millis(0)).unwrap();
        assert!(!notebook.is_told("1.a.b"));
        notebook.told("1.a.b", 1);
        notebook.told("2.c.d", 2);
        assert_eq!(notebook.epoch, 2);
        let again = GrantLog::open(own(), &file, Millis(0)).unwrap();
        assert!(again.is_told("2.c.d") && !again.is_told("1.a.b"));
        remove(&file);
    }
}
