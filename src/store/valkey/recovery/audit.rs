//! Checks whether Valkey has lost or damaged single keys while the term stays the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::grant_log::answer_too_late;
use super::local_view::{MissingRecord, ViewVersion};
use crate::instance::InstanceId;
use crate::store::valkey::admission::{Admission, OpenTerm};
use crate::store::valkey::connection::Call;
use crate::store::valkey::damage::malformed;
use crate::store::valkey::scripts::RECORDS_PER_CALL;
use crate::store::{Cursor, StoreError};

/// Pause between two checks of all data.
pub(super) const AUDIT_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a repair before the next one, for each unit of time that the repair took, within the limits below. Calls
/// wait during a repair, and keys may be lost again faster than they are restored, or a repair may not help: so repairs
/// take at most about a tenth of the time.
const PAUSE_SHARE: u32 = 9;
const MIN_REPAIR_PAUSE: Duration = Duration::from_millis(500);
const MAX_REPAIR_PAUSE: Duration = Duration::from_secs(5);

/// When the data is checked and repaired.
pub(super) struct AuditSchedule {
    next_audit: Instant,
    next_repair: Instant,
    /// When the repair in progress began. A flaw that is found before its end belongs to it.
    repair_began: Option<Instant>,
}

impl AuditSchedule {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { next_audit: now, next_repair: now, repair_began: None }
    }

    /// Returns what is wrong with the data of a term, if it is time to look or a sign of damage was noted, and if the
    /// data may be repaired now. The caller begins a repair.
    ///
    /// # Errors
    /// `Unavailable` without an answer.
    pub(super) async fn find_flaw(
        &mut self,
        admission: &Arc<Admission>,
        term: &Arc<OpenTerm>,
    ) -> Result<Option<String>, StoreError> {
        let sign = self.take_sign(admission);
        let now = Instant::now();
        if sign.is_some() || now < self.next_repair.max(self.next_audit) {
            return Ok(sign);
        }
        self.next_audit = now + AUDIT_INTERVAL;
        let flaw = match admission.find_flaw(term).await {
            Ok(flaw) => flaw,
            Err(error) => Some(admission.damage.take().ok_or(error)?),
        };
        if flaw.is_some() {
            self.begin_repair(now);
        }
        Ok(flaw)
    }

    /// Returns a sign of damage that was noted, if the data may be repaired now. The caller begins a repair.
    pub(super) fn take_sign(&mut self, admission: &Admission) -> Option<String> {
        let now = Instant::now();
        let flaw = if now < self.next_repair { None } else { admission.damage.take() };
        if flaw.is_some() {
            self.begin_repair(now);
        }
        flaw
    }

    fn begin_repair(&mut self, now: Instant) {
        let began = *self.repair_began.get_or_insert(now);
        self.next_repair = now + pause_after(now - began);
    }

    /// Notes that a term is open again: the repair in progress, if there is one, is done.
    pub(super) fn end_repair(&mut self) {
        if let Some(began) = self.repair_began.take() {
            self.next_repair = Instant::now() + pause_after(began.elapsed());
        }
    }
}

/// Returns the pause after a repair that has taken so long.
fn pause_after(took: Duration) -> Duration {
    (took * PAUSE_SHARE).clamp(MIN_REPAIR_PAUSE, MAX_REPAIR_PAUSE)
}

impl Admission {
    /// Returns what is wrong with the data of a term; `None` if nothing is.
    ///
    /// # Errors
    /// `Unavailable` without an answer, or if the term is over: what was read in it may have been damaged.
    pub(crate) async fn find_flaw(&self, term: &Arc<OpenTerm>) -> Result<Option<String>, StoreError> {
        let (present, cursor) = {
            let log = self.grant_log.lock();
            (log.view.present(), log.view.cursor().0.to_string())
        };
        let number = {
            let last = self.last_node_list.lock();
            let is_listed =
                last.list.iter().flat_map(|list| &list.nodes).any(|node| &node.info.id == self.node());
            if is_listed { last.number } else { 0 }.to_string()
        };
        let joined = self.joined.load(Ordering::Acquire).to_string();
        let front = [term.name.as_str(), self.node().as_str(), &cursor, &number, &joined];
        let mut missing = std::mem::take(&mut *self.missing.lock());
        let no_page: &[(InstanceId, u64, ViewVersion)] = &[];
        let pages = present.chunks(RECORDS_PER_CALL).chain(present.is_empty().then_some(no_page));
        for page in pages {
            let generations: Vec<String> =
                page.iter().map(|(_, generation, _)| generation.to_string()).collect();
            let mut arguments = front.to_vec();
            for ((id, ..), generation) in page.iter().zip(&generations) {
                arguments.extend([id.as_str(), generation]);
            }
            let call = Call::Script(self.script_call(&self.scripts.audit, &arguments));
            let mut reply = self.reply(self.connection.call(&call).await?);
            match reply.text()?.as_str() {
                "over" => return Err(answer_too_late()),
                "damaged" => return reply.text().map(Some),
                "joined" => {
                    // The first time, or again after an eviction; its heartbeat may have got no answer.
                    self.joined.store(reply.number()?, Ordering::Release);
                    self.unclaimed_check.want();
                    self.damage.wake_recovery.notify_one();
                    return Ok(None);
                }
                "ok" => {}
                _ => return Err(malformed()),
            }
            let events = Cursor(reply.number()?);
            for id in reply.remaining() {
                if let Some((id, _, since)) = page.iter().find(|(known, ..)| known.as_str() == id) {
                    missing.push(MissingRecord { id: id.clone(), since: *since, events });
                }
            }
        }
        if self.unclaimed_check.pending().is_some() {
            // This node first forgets what was removed with it.
            return Ok(None);
        }
        let log = self.grant_log.lock();
        missing.retain(|one| log.view.is_still_present(&one.id, one.since));
        let is_lost = missing.iter().any(|one| log.view.followed() >= one.events);
        drop(log);
        if is_lost {
            return Ok(Some("a record is lost".to_owned()));
        }
        *self.missing.lock() = missing;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;
    use crate::store::valkey::recovery::GrantLog;
    use crate::store::valkey::settings::Settings;

    fn admission() -> Admission {
        let node = NodeId::parse("a").unwrap();
        Admission::new(Settings { node: node.clone(), ..Settings::default() }, GrantLog::new(node))
    }

    #[tokio::test(start_paused = true)]
    async fn repairs_take_a_tenth_of_the_time_even_if_none_helps() {
        let admission = admission();
        let mut schedule = AuditSchedule::new();
        // After the least pause, after nine times a repair's time, and after the longest pause.
        for (took, pause) in [(10, 500), (100, 900), (2_000, 5_000)] {
            admission.damage.note("a flaw");
            assert!(schedule.take_sign(&admission).is_some(), "{took}");
            tokio::time::advance(Duration::from_millis(took)).await;
            schedule.end_repair();
            admission.damage.note("a flaw");
            tokio::time::advance(Duration::from_millis(pause - 1)).await;
            assert_eq!(schedule.take_sign(&admission), None, "{took}");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_repair_that_does_not_end_begins_anew_ever_more_rarely() {
        let admission = admission();
        let mut schedule = AuditSchedule::new();
        let begun = Instant::now();
        let mut moments = Vec::new();
        while begun.elapsed() < Duration::from_secs(20) {
            admission.damage.note("a flaw");
            if schedule.take_sign(&admission).is_some() {
                moments.push(begun.elapsed().as_millis());
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(moments, [0, 500, 5_000, 10_000, 15_000]);
    }
}
