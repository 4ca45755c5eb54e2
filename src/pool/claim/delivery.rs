//! Whether the answer that assigns an instance reached the visitor.
//!
//! A claim assigns an instance before the visitor knows of it. What carries the answer to the visitor also carries a
//! [`Delivery`], and reports to it how far the answer got; a delivery that is dropped reports that the visitor is gone.
//! The consequence is noted in the [`Ledger`], and carried out later by [`super::delivery_worker`].
//!
//! **Architecture invariant:** a claim is undone only where no byte of its answer was attempted. Code that sends an
//! answer with an [`Acquired`](super::acquire::Acquired) must take the delivery out of the answer's body, call
//! [`Delivery::mark_attempted`] before the first write and [`Delivery::complete`] after the last one. A sender that
//! calls it after the first write lets a client learn the address of an instance that the next visitor gets: a write
//! that blocks or fails may have sent a part of the answer. Without any call each claim is undone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::instance::InstanceId;
use crate::store::Claim;

/// Number of deliveries that are confirmed at once instead of at the next tick.
const CONFIRM_BATCH: usize = 1000;
/// Most undos that wait. Beyond that the oldest is dropped, and the store's sweep ends its claim a minute later.
const MAX_PENDING_UNDOS: usize = 4096;

/// An answer on its way to the visitor.
///
/// Dropped before the first write to the visitor's connection was attempted, the claim is undone; dropped before the
/// last byte was passed to the connection, the instance is released.
#[derive(Debug)]
pub struct Delivery {
    ledger: Arc<Ledger>,
    claim: Claim,
    id: Option<InstanceId>,
    progress: Progress,
}

/// An answer of which each byte was passed to the visitor's connection.
#[derive(Debug)]
pub struct Delivered {
    ledger: Arc<Ledger>,
    id: InstanceId,
}

/// The progress of a claim and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The visitor has no instance, and the store knows that.
    Idle,
    /// The claim was sent to the store, which may have performed it.
    Claiming,
    /// An instance is assigned, and no write of the answer was attempted. The visitor cannot know of the instance.
    Granted,
    /// A write was attempted, and the whole answer was not given to the connection. The visitor may know of the
    /// instance.
    Attempted,
    /// The whole answer was given to the connection.
    Complete,
}

impl Delivery {
    /// Creates the delivery of a claim that was not made yet.
    pub(super) fn new(claim: Claim, ledger: Arc<Ledger>) -> Self {
        Self { ledger, claim, id: None, progress: Progress::Idle }
    }

    /// Returns the claim, to be sent to the store now. If the delivery is dropped before the store answers, the claim
    /// is undone in case the store performed it.
    pub(super) fn begin_claim(&mut self) -> &Claim {
        self.progress = Progress::Claiming;
        &self.claim
    }

    /// Returns the claim.
    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Notes that the claim got no instance. It may be made again.
    pub(super) fn claim_got_nothing(&mut self) {
        self.progress = Progress::Idle;
    }

    /// Notes that the claim got this instance.
    pub(super) fn mark_granted(&mut self, id: InstanceId) {
        self.id = Some(id);
        self.progress = Progress::Granted;
    }

    /// Notes that bytes of the answer are written now. Further calls have no effect.
    ///
    /// Call it before the first write to the visitor's connection, not after it: a write that blocks or fails may have
    /// sent a part of the answer. A queue from which another task writes counts as the connection; a queue that refuses
    /// the answer does not.
    pub fn mark_attempted(&mut self) {
        if self.progress == Progress::Granted {
            self.progress = Progress::Attempted;
        }
    }

    /// Notes that the whole answer was passed to the visitor's connection. Returns `None` when no instance was
    /// assigned.
    pub fn complete(mut self) -> Option<Delivered> {
        let id = self.id.take()?;
        self.progress = Progress::Complete;
        self.ledger.note_delivered(id.clone());
        Some(Delivered { ledger: self.ledger.clone(), id })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let undo = match (self.progress, self.id.take()) {
            (Progress::Idle | Progress::Complete, _) => return,
            (Progress::Attempted, Some(id)) => Undo::Release(id),
            (Progress::Claiming | Progress::Granted | Progress::Attempted, _) => {
                Undo::Claim(self.claim.clone())
            }
        };
        self.ledger.note_undo(undo);
    }
}

impl Delivered {
    /// Notes that the visitor's system refused the answer: the visitor was gone before.
    pub fn mark_lost(self) {
        self.ledger.note_undo(Undo::Release(self.id));
    }

    /// Notes that the visitor may have left without reading the answer. The instance is released unless it is used.
    pub fn mark_doubtful(self) {
        self.ledger.note_doubtful(self.id);
    }
}

/// What is to be done about deliveries that have ended.
#[derive(Debug, Default)]
pub(in crate::pool) struct Ledger {
    pending: Mutex<Pending>,
    /// Notified when there is something that should not wait for the next tick.
    pub(super) urgent: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// Instances whose claims are to be confirmed.
    delivered: Vec<InstanceId>,
    /// Each with the time when it was noted.
    undos: VecDeque<(Undo, Instant)>,
    /// Instances whose visitors may be gone, each with the time when that was noted.
    doubtful: VecDeque<(InstanceId, Instant)>,
}

/// What is to be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undo {
    /// A claim of whose answer no byte was attempted: if it got an instance, that is to be ready again.
    Claim(Claim),
    /// The instance of a visitor who may know of it, and is gone: it is to be released.
    Release(InstanceId),
}

impl Ledger {
    /// Notes an instance whose claim is to be confirmed.
    pub(in crate::pool) fn note_delivered(&self, id: InstanceId) {
        let mut pending = self.pending.lock();
        pending.delivered.push(id);
        if pending.delivered.len() == CONFIRM_BATCH {
            self.urgent.notify_one();
        }
    }

    fn note_undo(&self, undo: Undo) {
        let mut pending = self.pending.lock();
        pending.undos.push_back((undo, Instant::now()));
        if pending.undos.len() > MAX_PENDING_UNDOS {
            pending.undos.pop_front();
        }
        drop(pending);
        self.urgent.notify_one();
    }

    fn note_doubtful(&self, id: InstanceId) {
        self.pending.lock().doubtful.push_back((id, Instant::now()));
    }

    /// Takes the instances that have been doubtful for at least `age`.
    pub(super) fn take_doubtful(&self, age: Duration) -> Vec<InstanceId> {
        let mut pending = self.pending.lock();
        let due = pending.doubtful.iter().take_while(|(_, since)| since.elapsed() >= age).count();
        pending.doubtful.drain(..due).map(|(id, _)| id).collect()
    }

    /// Takes the instances whose claims are to be confirmed, if a confirmation `is_due` or a batch is full; else none.
    pub(super) fn take_delivered(&self, is_due: bool) -> Vec<InstanceId> {
        let mut pending = self.pending.lock();
        if is_due || pending.delivered.len() >= CONFIRM_BATCH {
            std::mem::take(&mut pending.delivered)
        } else {
            Vec::new()
        }
    }

    /// Takes the oldest undos, at most `most`.
    pub(super) fn take_undos(&self, most: usize) -> Vec<(Undo, Instant)> {
        let mut pending = self.pending.lock();
        let count = most.min(pending.undos.len());
        pending.undos.drain(..count).collect()
    }

    /// Queues deliveries that could not be confirmed again, as the first. Wakes no task.
    pub(super) fn requeue_delivered(&self, mut delivered: Vec<InstanceId>) {
        let mut pending = self.pending.lock();
        delivered.append(&mut pending.delivered);
        pending.delivered = delivered;
    }

    /// Queues undos that failed again, as the first. Wakes no task.
    pub(super) fn requeue_undos(&self, undos: Vec<(Undo, Instant)>) {
        let mut pending = self.pending.lock();
        for undo in undos.into_iter().rev() {
            pending.undos.push_front(undo);
        }
    }
}

/// A delivery to test the code that carries one.
#[cfg(test)]
pub(crate) mod delivery_probe {
    use super::*;

    /// What a delivery left to be done.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Outcome {
        confirmed: usize,
        claims_undone: usize,
        released: usize,
        doubtful: usize,
    }

    impl Outcome {
        const NOTHING: Self = Self { confirmed: 0, claims_undone: 0, released: 0, doubtful: 0 };
        pub(crate) const CLAIM_UNDONE: Self = Self { claims_undone: 1, ..Self::NOTHING };
        pub(crate) const RELEASED: Self = Self { released: 1, ..Self::NOTHING };
        pub(crate) const CONFIRMED: Self = Self { confirmed: 1, ..Self::NOTHING };
        pub(crate) const CONFIRMED_AND_RELEASED: Self = Self { released: 1, ..Self::CONFIRMED };
        pub(crate) const CONFIRMED_AND_DOUBTFUL: Self = Self { doubtful: 1, ..Self::CONFIRMED };
    }

    /// Returns a delivery of an assigned instance, and a function that returns what the delivery left to be done.
    pub(crate) fn granted() -> (Delivery, impl Fn() -> Outcome) {
        let ledger = Arc::new(Ledger::default());
        let mut delivery = Delivery::new(super::tests::claim(), ledger.clone());
        delivery.begin_claim();
        delivery.mark_granted(super::tests::id());
        let outcome = move || {
            let undos = ledger.take_undos(9);
            let released = undos.iter().filter(|(undo, _)| matches!(undo, Undo::Release(_))).count();
            let confirmed = ledger.take_delivered(true).len();
            let doubtful = ledger.take_doubtful(Duration::ZERO).len();
            Outcome { confirmed, claims_undone: undos.len() - released, released, doubtful }
        };
        (delivery, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{ClaimToken, NodeId, RateLimits, TemplateName};
    use crate::store::Visitor;

    pub(super) fn claim() -> Claim {
        Claim {
            template: TemplateName::new("t").unwrap(),
            token: ClaimToken::random(),
            node: NodeId::random(),
            visitor: Visitor::new("v"),
            limits: RateLimits::NONE,
            ttl: Duration::from_secs(60),
        }
    }

    pub(super) fn id() -> InstanceId {
        InstanceId::random(&TemplateName::new("t").unwrap())
    }

    /// Returns what is to be confirmed and undone after a delivery that took this course.
    fn after(course: impl FnOnce(Delivery)) -> (Vec<InstanceId>, Vec<Undo>) {
        let ledger = Arc::new(Ledger::default());
        course(Delivery::new(claim(), ledger.clone()));
        let undos = ledger.take_undos(9).into_iter().map(|(undo, _)| undo).collect();
        (ledger.take_delivered(true), undos)
    }

    #[test]
    fn each_end_of_a_delivery_has_its_own_consequence() {
        let (id, claim) = (id(), claim());
        let granted = |it: &mut Delivery| {
            it.claim = claim.clone();
            it.begin_claim();
            it.mark_granted(id.clone());
        };
        assert_eq!(after(drop), (vec![], vec![]), "the store received no claim");
        let unanswered = |mut it: Delivery| {
            it.claim = claim.clone();
            it.begin_claim();
        };
        assert_eq!(
            after(unanswered),
            (vec![], vec![Undo::Claim(claim.clone())]),
            "the store's answer is not known"
        );
        let nothing = |mut it: Delivery| {
            it.begin_claim();
            it.claim_got_nothing();
        };
        assert_eq!(after(nothing), (vec![], vec![]));
        let not_attempted = |mut it: Delivery| granted(&mut it);
        assert_eq!(after(not_attempted), (vec![], vec![Undo::Claim(claim.clone())]));
        let attempted = |mut it: Delivery| {
            granted(&mut it);
            it.mark_attempted();
            it.mark_attempted();
        };
        assert_eq!(after(attempted), (vec![], vec![Undo::Release(id.clone())]));
        let complete = |mut it: Delivery| {
            granted(&mut it);
            it.mark_attempted();
            drop(it.complete());
        };
        assert_eq!(after(complete), (vec![id.clone()], vec![]));
        let lost = |mut it: Delivery| {
            granted(&mut it);
            it.complete().unwrap().mark_lost();
        };
        assert_eq!(after(lost), (vec![id.clone()], vec![Undo::Release(id.clone())]));
        assert_eq!(after(|it| assert!(it.complete().is_none())), (vec![], vec![]));
    }

    #[test]
    fn the_number_of_pending_undos_is_bounded() {
        let ledger = Arc::new(Ledger::default());
        for _ in 0..MAX_PENDING_UNDOS + 10 {
            Delivery::new(claim(), ledger.clone()).begin_claim();
        }
        assert_eq!(ledger.take_undos(usize::MAX).len(), MAX_PENDING_UNDOS);
    }

    #[test]
    fn a_few_deliveries_wait_for_the_next_tick_and_a_full_batch_does_not() {
        let (ledger, first) = (Ledger::default(), id());
        ledger.note_delivered(first.clone());
        assert_eq!(ledger.take_delivered(false), []);
        assert_eq!(ledger.take_delivered(true), std::slice::from_ref(&first));
        (1..CONFIRM_BATCH).for_each(|_| ledger.note_delivered(id()));
        ledger.requeue_delivered(vec![first.clone()]);
        let all = ledger.take_delivered(false);
        assert_eq!((all.len(), &all[0]), (CONFIRM_BATCH, &first), "what was requeued comes first");
    }

    #[test]
    fn an_undo_that_failed_comes_before_those_noted_since() {
        let (ledger, first, second) = (Ledger::default(), Undo::Release(id()), Undo::Release(id()));
        ledger.note_undo(first.clone());
        let taken = ledger.take_undos(5);
        ledger.note_undo(second.clone());
        ledger.requeue_undos(taken);
        let all: Vec<_> = ledger.take_undos(5).into_iter().map(|(undo, _)| undo).collect();
        assert_eq!(all, [first, second]);
    }
}
