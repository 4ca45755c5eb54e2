//! What this node knows, and the journal of what it granted, written before any caller gets the answer.
//!
//! Beside the journal lies a file with the name of the term that knows all of it: a server that is started again in the
//! same term need not report to Valkey, which has lost nothing since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::local_view::LocalView;
use crate::clock::Millis;
use crate::instance::{Instance, InstanceId, NodeId, RETENTION, State};
use crate::store::StoreError;
use crate::store::journal::Journal;

/// The number of reports that this node has begun. An answer to a call from before a report came too late to be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReportGeneration(u64);

/// The local view with its journal, and what was reported of it.
#[derive(Debug)]
pub(crate) struct GrantLog {
    pub(crate) view: LocalView,
    generation: ReportGeneration,
    /// The term that knows the whole view.
    reported_term: Option<String>,
    /// The highest epoch seen.
    pub(crate) epoch: u64,
    /// The journal, and the file with the name of the term.
    journal: Option<(Journal, PathBuf)>,
}

/// The error of an answer that came too late to be believed. Whether the step was done is unknown.
pub(crate) fn answer_too_late() -> StoreError {
    StoreError::Unavailable("the answer came after a recovery had begun".to_owned())
}

impl GrantLog {
    /// Returns a log without a file.
    pub(crate) fn new(node: NodeId) -> Self {
        let generation = ReportGeneration(0);
        Self { view: LocalView::new(node), generation, reported_term: None, epoch: 0, journal: None }
    }

    /// Opens or creates a log with a file. The view begins with the instances in the file that matter at `now`.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn open(node: NodeId, file: &Path, now: Millis) -> io::Result<Self> {
        let (journal, granted) = Journal::open(file.to_owned())?;
        let mut log = Self::new(node);
        let matters = |(record, _): &&(Instance, bool)| match record.state() {
            State::Assigned { lease, .. } => now < lease.deadline() + RETENTION,
            State::Expired { at, .. } => now < *at + RETENTION,
            State::Warming | State::Ready { .. } => false,
        };
        let granted = granted.iter().filter(matters);
        granted.for_each(|(record, is_unconfirmed)| log.view.restore(record, !is_unconfirmed));
        let term_file = file.with_extension("tenure");
        log.reported_term = fs::read_to_string(&term_file).ok();
        log.journal = Some((journal, term_file));
        Ok(log)
    }

    /// Updates the view, and journals what changed of the instances granted here.
    pub(crate) fn update<T>(&mut self, update: impl FnOnce(&mut LocalView) -> T) -> T {
        let updated = update(&mut self.view);
        let changes = self.view.take_unjournaled();
        if let Some((journal, _)) = &mut self.journal {
            changes
                .iter()
                .for_each(|(change, is_unconfirmed)| journal.record_change(change, *is_unconfirmed));
        }
        updated
    }

    /// Updates the view with the answer to a call from that report generation, and journals what changed.
    ///
    /// # Errors
    /// A report has begun since the call. Valkey may have lost what it answered, so the answer must not be believed.
    pub(crate) fn update_from(
        &mut self,
        generation: ReportGeneration,
        update: impl FnOnce(&mut LocalView),
    ) -> Result<(), StoreError> {
        if self.generation != generation {
            return Err(answer_too_late());
        }
        self.update(update);
        Ok(())
    }

    /// Notes that claims are confirmed, as the answer to a call from that report generation says, and journals it.
    ///
    /// # Errors
    /// As of [`GrantLog::update_from`].
    pub(crate) fn confirm(
        &mut self,
        generation: ReportGeneration,
        ids: &[InstanceId],
    ) -> Result<(), StoreError> {
        self.update_from(generation, |view| ids.iter().for_each(|id| view.confirm(id)))?;
        if let Some((journal, _)) = &mut self.journal {
            journal.record_confirmed(ids);
        }
        Ok(())
    }

    /// Returns the present report generation.
    pub(crate) fn generation(&self) -> ReportGeneration {
        self.generation
    }

    /// Begins a report, and returns all that this node knows. From now on answers to earlier calls come too late.
    pub(crate) fn begin_report(&mut self) -> Vec<(InstanceId, String)> {
        self.generation.0 += 1;
        self.view.report()
    }

    /// Whether the whole view was reported to that term, or learnt from it.
    pub(crate) fn is_reported_to(&self, term: &str) -> bool {
        self.reported_term.as_deref() == Some(term)
    }

    /// Notes that the whole view was reported to that term, and writes the term's name beside the journal.
    pub(crate) fn set_reported_to(&mut self, term: &str, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
        self.reported_term = Some(term.to_owned());
        if let Some((_, file)) = &self.journal
            && let Err(error) = write_term(file, term)
        {
            // The file has an older term, or none: after a start everything is reported once more.
            tracing::warn!(file = %file.display(), %error, "failed to write name of store's term");
        }
    }
}

fn write_term(file: &Path, term: &str) -> io::Result<()> {
    let draft = file.with_extension("tenure-draft");
    fs::write(&draft, term)?;
    fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::instance::{ClaimToken, TemplateName};

    fn node() -> NodeId {
        NodeId::parse("own").unwrap()
    }

    fn file() -> PathBuf {
        std::env::temp_dir().join(format!("try-it-now-grant-log-{}", NodeId::random()))
    }

    fn remove(file: &Path) {
        fs::remove_file(file).unwrap();
        let _ = fs::remove_file(file.with_extension("tenure"));
    }

    fn assigned(ttl: u64) -> Instance {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let ready = Instance::warming(id, node(), 1, Millis(1)).offered(([127, 0, 0, 1], 80).into()).unwrap();
        ready.assigned(ClaimToken::random(), Millis(10), Duration::from_millis(ttl)).unwrap()
    }

    #[test]
    fn an_answer_to_a_call_from_before_a_report_is_refused_and_not_merged() {
        let mut log = GrantLog::new(node());
        let (before, first, second) = (log.generation(), assigned(9), assigned(9));
        log.update_from(before, |view| view.merge(&first, true)).unwrap();
        assert_eq!(log.begin_report().len(), 1);
        assert_eq!(log.update_from(before, |view| view.merge(&second, true)), Err(answer_too_late()));
        assert_eq!(log.begin_report().len(), 1);
        log.update_from(log.generation(), |view| view.merge(&second, true)).unwrap();
        assert_eq!(log.begin_report().len(), 2);
    }

    #[test]
    fn granted_instances_are_known_again_after_a_start_for_as_long_as_they_matter() {
        let file = file();
        let mut log = GrantLog::open(node(), &file, Millis(0)).unwrap();
        let (long, short, ended, other) = (assigned(90_000), assigned(5), assigned(90_000), assigned(90_000));
        for granted in [&long, &short, &ended] {
            log.update(|view| view.merge(granted, true));
        }
        log.update(|view| view.merge(&other, false));
        log.update(|view| view.merge_end(&ended, Instant::now()));
        let later = Millis(20) + RETENTION;
        let again = GrantLog::open(node(), &file, later).unwrap().begin_report();
        assert_eq!(again.iter().map(|(id, _)| id).collect::<Vec<_>>(), [long.id()]);
        let again =
            GrantLog::open(node(), &file, later + Duration::from_millis(90_000)).unwrap().begin_report();
        assert!(again.is_empty());
        remove(&file);
    }

    #[test]
    fn after_a_start_the_log_knows_to_which_term_everything_was_reported() {
        let file = file();
        let mut log = GrantLog::open(node(), &file, Millis(0)).unwrap();
        assert!(!log.is_reported_to("1.a.b"));
        log.set_reported_to("1.a.b", 1);
        log.set_reported_to("2.c.d", 2);
        assert_eq!(log.epoch, 2);
        let again = GrantLog::open(node(), &file, Millis(0)).unwrap();
        assert!(again.is_reported_to("2.c.d") && !again.is_reported_to("1.a.b"));
        remove(&file);
    }
}
