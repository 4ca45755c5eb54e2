//! Whether a visitor got the answer that hands it an instance.
//!
//! A claim gives an instance to a visitor before the visitor knows. Whoever carries the answer carries a [`Delivery`] with
//! it, and says how far it got; dropped on the way, it says that the visitor is gone. What follows from that is noted in
//! the [`Ledger`] and done apart from the acquire, see [`super::delivery_worker`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::instance::InstanceId;
use crate::store::Claim;

/// So many deliveries are confirmed before their time.
pub(crate) const FULL: usize = 1000;
/// Most claims that wait to be undone; beyond that the store's sweep does it, a minute later.
const MOST_UNDONE: usize = 4096;

/// An answer on its way to the visitor. Dropped before its first byte was handed to the visitor's connection, the claim
/// is taken back; dropped before the last one, the instance is released.
#[derive(Debug)]
pub struct Delivery {
    ledger: Arc<Ledger>,
    claim: Claim,
    id: Option<InstanceId>,
    progress: Progress,
}

/// A delivery of which every byte was handed to the visitor's connection.
#[derive(Debug)]
pub struct Delivered {
    ledger: Arc<Ledger>,
    id: InstanceId,
}

/// How far a claim and its answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The visitor has no instance, and the store knows that.
    Idle,
    /// The store was asked; it may have done it.
    Claiming,
    /// The visitor has one and was not told.
    Granted,
    /// The visitor may have been told in part.
    Begun,
    /// The visitor has been told.
    Done,
}

impl Delivery {
    /// Of a claim that was not made yet.
    pub(crate) fn of(claim: Claim, ledger: Arc<Ledger>) -> Self {
        Self { ledger, claim, id: None, progress: Progress::Idle }
    }

    /// The claim, to be made now. Whoever is dropped before it hears the answer leaves open what that would have been.
    pub(crate) fn claiming(&mut self) -> &Claim {
        self.progress = Progress::Claiming;
        &self.claim
    }

    /// The claim got nothing, and may be made again.
    pub(crate) fn came_to_nothing(&mut self) {
        self.progress = Progress::Idle;
    }

    /// The claim got this instance.
    pub(crate) fn granted(&mut self, id: InstanceId) {
        self.id = Some(id);
        self.progress = Progress::Granted;
    }

    /// The first byte of the answer was handed to the visitor's connection. May be said again.
    pub fn begun(&mut self) {
        if self.progress == Progress::Granted {
            self.progress = Progress::Begun;
        }
    }

    /// The whole answer was handed to the visitor's connection. `None` when there was nothing to deliver.
    pub fn done(mut self) -> Option<Delivered> {
        let id = self.id.take()?;
        self.progress = Progress::Done;
        self.ledger.delivered(id.clone());
        Some(Delivered { ledger: self.ledger.clone(), id })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let undo = match (self.progress, self.id.take()) {
            (Progress::Idle | Progress::Done, _) => return,
            (Progress::Begun, Some(id)) => Undo::Release(id),
            (Progress::Claiming | Progress::Granted | Progress::Begun, _) => {
                Undo::TakeBack(self.claim.clone())
            }
        };
        self.ledger.undo(undo);
    }
}

impl Delivered {
    /// The visitor's end of the connection refused what was handed to it: it was gone before.
    pub fn lost(self) {
        self.ledger.undo(Undo::Release(self.id));
    }

    /// The visitor may have left without reading it. Unless somebody comes to use the instance, it is nobody's.
    pub fn doubted(self) {
        self.ledger.doubt(self.id);
    }
}

/// What is to be done about deliveries that have ended.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    open: Mutex<Open>,
    /// Rung when there is something that should not wait.
    pub(crate) news: Notify,
}

#[derive(Debug, Default)]
struct Open {
    delivered: Vec<InstanceId>,
    /// Each with the time when it was noted.
    undone: VecDeque<(Undo, Instant)>,
    /// Perhaps nobody's, each with the time when that was noted.
    doubted: VecDeque<(InstanceId, Instant)>,
}

/// What is to be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undo {
    /// A claim that nobody heard of: its instance, if it got one, is ready again.
    TakeBack(Claim),
    /// The visitor may have heard of this instance, and is gone: so is the instance.
    Release(InstanceId),
}

impl Ledger {
    /// Notes one that is to be confirmed.
    pub(crate) fn delivered(&self, id: InstanceId) {
        let mut open = self.open.lock();
        open.delivered.push(id);
        if open.delivered.len() == FULL {
            self.news.notify_one();
        }
    }

    /// Notes what is to be undone.
    fn undo(&self, undo: Undo) {
        let mut open = self.open.lock();
        open.undone.push_back((undo, Instant::now()));
        if open.undone.len() > MOST_UNDONE {
            open.undone.pop_front();
        }
        drop(open);
        self.news.notify_one();
    }

    /// Notes what may be nobody's.
    fn doubt(&self, id: InstanceId) {
        self.open.lock().doubted.push_back((id, Instant::now()));
    }

    /// Takes what has been in doubt for so long.
    pub(crate) fn take_doubted(&self, longest: Duration) -> Vec<InstanceId> {
        let mut open = self.open.lock();
        let ripe = open.doubted.iter().take_while(|(_, since)| since.elapsed() >= longest).count();
        open.doubted.drain(..ripe).map(|(id, _)| id).collect()
    }

    /// Takes what is to be confirmed, if there is enough of it or it has waited long enough.
    pub(crate) fn take_delivered(&self, in_time: bool) -> Vec<InstanceId> {
        let mut open = self.open.lock();
        if in_time || open.delivered.len() >= FULL { std::mem::take(&mut open.delivered) } else { Vec::new() }
    }

    /// Takes up to `most` of what is to be undone.
    pub(crate) fn take_undone(&self, most: usize) -> Vec<(Undo, Instant)> {
        let mut open = self.open.lock();
        let most = most.min(open.undone.len());
        open.undone.drain(..most).collect()
    }

    /// Puts back what could not be confirmed. Nobody is woken for that.
    pub(crate) fn put_delivered_back(&self, mut delivered: Vec<InstanceId>) {
        let mut open = self.open.lock();
        delivered.append(&mut open.delivered);
        open.delivered = delivered;
    }

    /// Puts back what could not be undone. Nobody is woken for that.
    pub(crate) fn put_undone_back(&self, undone: Vec<(Undo, Instant)>) {
        let mut open = self.open.lock();
        for undo in undone.into_iter().rev() {
            open.undone.push_front(undo);
        }
    }
}

/// For those who carry deliveries.
#[cfg(test)]
pub(crate) mod probe {
    use super::*;

    /// What a delivery left to do.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Outcome {
        confirmed: usize,
        taken_back: usize,
        released: usize,
        doubted: usize,
    }

    impl Outcome {
        const NOTHING: Self = Self { confirmed: 0, taken_back: 0, released: 0, doubted: 0 };
        pub(crate) const TAKEN_BACK: Self = Self { taken_back: 1, ..Self::NOTHING };
        pub(crate) const RELEASED: Self = Self { released: 1, ..Self::NOTHING };
        pub(crate) const CONFIRMED: Self = Self { confirmed: 1, ..Self::NOTHING };
        pub(crate) const RELEASED_AFTER_ALL: Self = Self { released: 1, ..Self::CONFIRMED };
        pub(crate) const DOUBTED: Self = Self { doubted: 1, ..Self::CONFIRMED };
    }

    /// A delivery of an instance, and an eye on what it leaves.
    pub(crate) fn granted() -> (Delivery, impl Fn() -> Outcome) {
        let ledger = Arc::new(Ledger::default());
        let mut delivery = Delivery::of(super::tests::claim(), ledger.clone());
        delivery.claiming();
        delivery.granted(super::tests::id());
        let told = move || {
            let undone = ledger.take_undone(9);
            let released = undone.iter().filter(|(undo, _)| matches!(undo, Undo::Release(_))).count();
            let confirmed = ledger.take_delivered(true).len();
            let doubted = ledger.take_doubted(Duration::ZERO).len();
            Outcome { confirmed, taken_back: undone.len() - released, released, doubted }
        };
        (delivery, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{ClaimToken, Limits, NodeId, TemplateName};
    use crate::store::Visitor;

    pub(super) fn claim() -> Claim {
        Claim {
            template: TemplateName::new("t").unwrap(),
            token: ClaimToken::random(),
            node: NodeId::random(),
            visitor: Visitor("v".to_owned()),
            limits: Limits { hourly: 0, daily: 0 },
            ttl: Duration::from_secs(60),
        }
    }

    pub(super) fn id() -> InstanceId {
        InstanceId::random(&TemplateName::new("t").unwrap())
    }

    /// What is left to do after a delivery that went like this.
    fn after(course: impl FnOnce(Delivery)) -> (Vec<InstanceId>, Vec<Undo>) {
        let ledger = Arc::new(Ledger::default());
        course(Delivery::of(claim(), ledger.clone()));
        let undone = ledger.take_undone(9).into_iter().map(|(undo, _)| undo).collect();
        (ledger.take_delivered(true), undone)
    }

    #[test]
    fn each_end_of_a_delivery_has_its_own_consequence() {
        let (id, claim) = (id(), claim());
        let granted = |it: &mut Delivery| {
            it.claim = claim.clone();
            it.claiming();
            it.granted(id.clone());
        };
        assert_eq!(after(drop), (vec![], vec![]), "nothing was asked of the store");
        let asked = |mut it: Delivery| {
            it.claim = claim.clone();
            it.claiming();
        };
        assert_eq!(after(asked), (vec![], vec![Undo::TakeBack(claim.clone())]), "the answer is not known");
        let nothing = |mut it: Delivery| {
            it.claiming();
            it.came_to_nothing();
        };
        assert_eq!(after(nothing), (vec![], vec![]));
        let untold = |mut it: Delivery| granted(&mut it);
        assert_eq!(after(untold), (vec![], vec![Undo::TakeBack(claim.clone())]));
        let half_told = |mut it: Delivery| {
            granted(&mut it);
            it.begun();
            it.begun();
        };
        assert_eq!(after(half_told), (vec![], vec![Undo::Release(id.clone())]));
        let told = |mut it: Delivery| {
            granted(&mut it);
            it.begun();
            drop(it.done());
        };
        assert_eq!(after(told), (vec![id.clone()], vec![]));
        let lost = |mut it: Delivery| {
            granted(&mut it);
            it.done().unwrap().lost();
        };
        assert_eq!(after(lost), (vec![id.clone()], vec![Undo::Release(id.clone())]));
        assert_eq!(after(|it| assert!(it.done().is_none())), (vec![], vec![]));
    }

    #[test]
    fn what_cannot_be_undone_does_not_fill_the_memory() {
        let ledger = Arc::new(Ledger::default());
        for _ in 0..MOST_UNDONE + 10 {
            Delivery::of(claim(), ledger.clone()).claiming();
        }
        assert_eq!(ledger.take_undone(usize::MAX).len(), MOST_UNDONE);
    }

    #[test]
    fn a_few_deliveries_wait_for_their_time_and_many_do_not() {
        let (ledger, first) = (Ledger::default(), id());
        ledger.delivered(first.clone());
        assert_eq!(ledger.take_delivered(false), []);
        assert_eq!(ledger.take_delivered(true), std::slice::from_ref(&first));
        (1..FULL).for_each(|_| ledger.delivered(id()));
        ledger.put_delivered_back(vec![first.clone()]);
        let all = ledger.take_delivered(false);
        assert_eq!((all.len(), &all[0]), (FULL, &first), "what was put back comes first");
    }

    #[test]
    fn what_was_put_back_is_undone_before_what_came_since() {
        let (ledger, first, second) = (Ledger::default(), Undo::Release(id()), Undo::Release(id()));
        ledger.undo(first.clone());
        let taken = ledger.take_undone(5);
        ledger.undo(second.clone());
        ledger.put_undone_back(taken);
        let all: Vec<_> = ledger.take_undone(5).into_iter().map(|(undo, _)| undo).collect();
        assert_eq!(all, [first, second]);
    }
}
