//! The records of one template, found by id or by slot.

use std::collections::HashMap;

use crate::clock::Millis;
use crate::instance::{Instance, InstanceId, RETENTION, State};
use crate::store::CONFIRM_TIMEOUT;

/// The place of a record while it exists; another record may reuse it afterwards.
pub(super) type Slot = u32;

/// A position in the queue of ready records. Positions added at the front count down from zero, those at the back up.
pub(super) type QueuePosition = i64;

/// A record, and what the table notes of it.
pub(super) struct Record {
    pub(super) instance: Instance,
    /// Meaningful while the instance is ready.
    pub(super) position: QueuePosition,
    /// When the claim was made, if it is unconfirmed. Meaningful while the instance is assigned.
    pub(super) unconfirmed_since: Option<Millis>,
}

impl Record {
    /// Returns when a sweep has something to do with the record.
    pub(super) fn due(&self) -> Option<Millis> {
        match self.instance.state() {
            State::Warming | State::Ready { .. } => None,
            State::Assigned { lease, .. } => {
                let confirmed_by = self.unconfirmed_since.map(|since| since + CONFIRM_TIMEOUT);
                Some(confirmed_by.map_or(lease.deadline(), |until| until.min(lease.deadline())))
            }
            State::Expired { at, .. } => Some(*at + RETENTION),
        }
    }
}

/// The records of one template.
///
/// They have slots and not only ids, so that the ordered sets hold small numbers instead of ids, and so that all
/// records can be read in portions while others change.
#[derive(Default)]
pub(super) struct Records {
    slots: Vec<Option<Record>>,
    free: Vec<Slot>,
    by_id: HashMap<InstanceId, Slot>,
}

impl Records {
    pub(super) fn slot(&self, id: &InstanceId) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    pub(super) fn by_id(&self, id: &InstanceId) -> Option<(Slot, &Instance)> {
        let slot = self.slot(id)?;
        Some((slot, &self.at(slot).instance))
    }

    /// Returns the record in a slot that is in use.
    pub(super) fn at(&self, slot: Slot) -> &Record {
        self.slots[slot as usize].as_ref().expect("queues and sets name only slots in use")
    }

    /// Returns the record in a slot that is in use.
    pub(super) fn at_mut(&mut self, slot: Slot) -> &mut Record {
        self.slots[slot as usize].as_mut().expect("queues and sets name only slots in use")
    }

    /// Adds a record, and returns its slot.
    pub(super) fn insert(&mut self, instance: Instance) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("memory ends before 2^32 records")
        });
        self.by_id.insert(instance.id().clone(), slot);
        self.slots[slot as usize] = Some(Record { instance, position: 0, unconfirmed_since: None });
        slot
    }

    /// Removes the record in a slot that is in use, and returns it.
    pub(super) fn remove(&mut self, slot: Slot) -> Record {
        let record = self.slots[slot as usize].take().expect("queues and sets name only slots in use");
        self.by_id.remove(record.instance.id());
        self.free.push(slot);
        record
    }

    /// Returns the records in `count` slots from slot `from` on; `None` past the last slot.
    pub(super) fn portion(&self, from: usize, count: usize) -> Option<impl Iterator<Item = &Instance>> {
        let end = self.slots.len().min(from + count);
        (from < end).then(|| self.slots[from..end].iter().flatten().map(|record| &record.instance))
    }

    #[cfg(test)]
    pub(super) fn slot_count(&self) -> usize {
        self.slots.len()
    }
}
