//! The records of one template, found by id, or by a number that stays theirs while they live.

use std::collections::HashMap;

use super::ready_queue::Turn;
use crate::clock::Millis;
use crate::instance::{Instance, InstanceId};

/// A record's place; reused after the record is gone.
pub(super) type Slot = u32;

/// A record, and its place in the queue of ready ones.
pub(super) struct Record {
    pub(super) instance: Instance,
    /// Meaningful while it is ready.
    pub(super) turn: Turn,
    /// Since when its visitor is not known to have been told. Meaningful while it is assigned.
    pub(super) unconfirmed: Option<Millis>,
}

/// Slots and not just a map by id, so that the ordered sets hold small numbers instead of ids, and so that all
/// records can be read a piece at a time while others change.
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

    /// The record of a slot that is known to be in use.
    pub(super) fn at(&self, slot: Slot) -> &Record {
        self.slots[slot as usize].as_ref().expect("queues and sets name only slots in use")
    }

    pub(super) fn at_mut(&mut self, slot: Slot) -> &mut Record {
        self.slots[slot as usize].as_mut().expect("queues and sets name only slots in use")
    }

    pub(super) fn insert(&mut self, instance: Instance) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("memory ends before 2^32 records")
        });
        self.by_id.insert(instance.id().clone(), slot);
        self.slots[slot as usize] = Some(Record { instance, turn: 0, unconfirmed: None });
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Record {
        let record = self.slots[slot as usize].take().expect("queues and sets name only slots in use");
        self.by_id.remove(record.instance.id());
        self.free.push(slot);
        record
    }

    /// The records in `count` slots from `from` on; `None` past the end.
    pub(super) fn piece(&self, from: usize, count: usize) -> Option<impl Iterator<Item = &Instance>> {
        let end = self.slots.len().min(from + count);
        (from < end).then(|| self.slots[from..end].iter().flatten().map(|record| &record.instance))
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }
}
