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

/// Pause after a repair before the next one. It doubles up to [`MAX_REPAIR_PAUSE`] until the data is found whole, in
/// case a repair does not help.
const MIN_REPAIR_PAUSE: Duration = Duration::from_millis(500);
const MAX_REPAIR_PAUSE: Duration = Duration::from_secs(5);

/// When the data is checked and repaired.
pub(super) struct AuditSchedule {
    next_audit: Instant,
    next_repair: Instant,
    repair_pause: Duration,
}

impl AuditSchedule {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { next_audit: now, next_repair: now, repair_pause: MIN_REPAIR_PAUSE }
    }

    /// Returns what is wrong with the data of a term, if it is time to look or a sign of damage was noted, and if the
    /// data may be repaired now.
    ///
    /// # Errors
    /// `Unavailable` without an answer.
    pub(super) async fn find_flaw(
        &mut self,
        admission: &Arc<Admission>,
        term: &Arc<OpenTerm>,
    ) -> Result<Option<String>, StoreError> {
        let now = Instant::now();
        if now < self.next_repair {
            return Ok(None);
        }
        let mut flaw = admission.damage.take();
        if flaw.is_none() && now >= self.next_audit {
            self.next_audit = now + AUDIT_INTERVAL;
            flaw = match admission.find_flaw(term).await {
                Ok(flaw) => flaw,
                Err(error) => Some(admission.damage.take().ok_or(error)?),
            };
            if flaw.is_none() {
                self.repair_pause = MIN_REPAIR_PAUSE;
            }
        }
        if flaw.is_some() {
            self.schedule_next_repair(now);
        }
        Ok(flaw)
    }

    /// Returns a sign of damage that was noted while no term is open, if the data may be repaired now.
    pub(super) fn take_sign(&mut self, admission: &Admission) -> Option<String> {
        let now = Instant::now();
        let flaw = if now < self.next_repair { None } else { admission.damage.take() };
        if flaw.is_some() {
            self.schedule_next_repair(now);
        }
        flaw
    }

    fn schedule_next_repair(&mut self, now: Instant) {
        self.next_repair = now + self.repair_pause;
        self.repair_pause = (self.repair_pause * 2).min(MAX_REPAIR_PAUSE);
    }
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
