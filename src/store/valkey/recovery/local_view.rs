//! What this server knows of the instances, whatever becomes of the store: those of its own node, and those that it
//! handed out. It is what a store that lost some of its past is told, see [`crate::store::valkey::recovery`].
//!
//! Facts about an instance are of one history, so of two the later one holds, in whatever order they are learnt: that it
//! expired, else that of the higher generation. That it is gone beats all that was up to then.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::instance::{ClaimToken, Instance, InstanceId, NodeId, State};
use crate::store::valkey::record_codec;
use crate::store::{Cursor, RouteChange};

/// How long it is known that one is gone. A store comes back younger than that, or not at all.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Most of those; beyond it the oldest are forgotten first.
const MOST_GONE: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct LocalView {
    own: NodeId,
    facts: HashMap<InstanceId, Fact>,
    /// Those gone, in the order in which that was learnt.
    gone: VecDeque<(Instant, InstanceId)>,
    /// How many times anything was learnt.
    learnt: u64,
    /// The greatest cursor seen.
    cursor: Cursor,
    /// What has to be written down of those that were handed out here.
    /// With each, whether nobody knows that its visitor was told.
    notes: Vec<(RouteChange, bool)>,
}

#[derive(Debug)]
enum Fact {
    There {
        record: Instance,
        /// Whether it was handed out here.
        granted: bool,
        /// Whether its visitor was told, if it was.
        confirmed: bool,
        /// Whether it was to end, and perhaps has: nobody is to get it.
        doubtful: bool,
        /// When it was learnt, in the order of learning.
        at: u64,
    },
    Gone {
        /// What would have been its next.
        generation: u64,
        /// Of the claim that had got it.
        token: Option<ClaimToken>,
    },
}

/// A moment in the order of learning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(u64);

/// How far on a record is: `further` in `recover_report.lua` is the same.
fn rank(record: &Instance) -> (bool, u64, u8, u64) {
    let (over, rank) = match record.life() {
        State::Warming => (false, 0),
        State::Ready { .. } => (false, 1),
        State::Assigned { .. } => (false, 2),
        State::Expired { .. } => (true, 3),
    };
    (over, record.generation(), rank, record.lease().map_or(0, |lease| lease.deadline().0))
}

impl LocalView {
    pub(crate) fn new(own: NodeId) -> Self {
        Self {
            own,
            facts: HashMap::new(),
            gone: VecDeque::new(),
            learnt: 0,
            cursor: Cursor(0),
            notes: Vec::new(),
        }
    }

    /// A step that was done here, or that concerns one that is known.
    pub(crate) fn learn(&mut self, record: &Instance, granted_here: bool) {
        let mut fact = (record.clone(), granted_here, false, false);
        match self.facts.get(record.id()) {
            Some(Fact::Gone { generation, .. }) if *generation >= record.generation() => return,
            Some(Fact::There { record: known, granted, doubtful, confirmed, .. }) => {
                let newer = rank(record) > rank(known);
                // Whoever does more with it knows of it.
                let confirmed = !(newer && granted_here) && (*confirmed || newer && *granted);
                let record = if newer { record } else { known }.clone();
                fact = (record, granted_here || *granted, *doubtful, confirmed);
                if !newer && fact.1 == *granted {
                    return;
                }
            }
            Some(Fact::Gone { .. }) | None => {}
        }
        self.learnt += 1;
        let (record, granted, doubtful, confirmed) = fact;
        if granted {
            self.notes.push((RouteChange::Set(record.clone()), !confirmed));
        }
        let id = record.id().clone();
        self.facts.insert(id, Fact::There { record, granted, doubtful, confirmed, at: self.learnt });
    }

    /// One that the journal says was handed out here. It need not be written down again.
    pub(crate) fn remember(&mut self, record: &Instance, told: bool) {
        self.learn(record, true);
        self.notes.clear();
        if told {
            self.confirm(record.id());
        }
    }

    /// Its visitor was told.
    pub(crate) fn confirm(&mut self, id: &InstanceId) {
        if let Some(Fact::There { confirmed, .. }) = self.facts.get_mut(id) {
            *confirmed = true;
        }
    }

    /// It is gone, and was this before.
    pub(crate) fn end(&mut self, before: &Instance, now: Instant) {
        let generation = before.generation() + 1;
        match self.facts.get(before.id()) {
            Some(Fact::Gone { generation: known, .. }) if *known >= generation => return,
            Some(Fact::There { record, granted, .. }) => {
                if record.generation() >= generation {
                    return;
                }
                if *granted {
                    self.notes.push((RouteChange::Gone(before.id().clone()), false));
                }
            }
            _ => {}
        }
        let token = before.lease().map(|lease| lease.token());
        self.facts.insert(before.id().clone(), Fact::Gone { generation, token });
        self.gone.push_back((now, before.id().clone()));
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.gone.front()
            && (self.gone.len() > MOST_GONE || now.duration_since(*at) > REMEMBERED)
            && let Some((_, id)) = self.gone.pop_front()
        {
            if let Some(Fact::Gone { .. }) = self.facts.get(&id) {
                self.facts.remove(&id);
            }
        }
    }

    /// It is to end: nobody is to get it, even if that cannot be told to the store now.
    pub(crate) fn doubt(&mut self, id: &InstanceId) {
        if let Some(Fact::There { doubtful, .. }) = self.facts.get_mut(id) {
            *doubtful = true;
        }
    }

    /// A change that the store tells, of whatever instance.
    pub(crate) fn follow(&mut self, change: &RouteChange, now: Instant) {
        match change {
            RouteChange::Set(record) => self.merge_if_known(record),
            RouteChange::Gone(id) => {
                if let Some(Fact::There { record, .. }) = self.facts.get(id) {
                    let before = record.clone();
                    self.end(&before, now);
                }
            }
        }
    }

    /// A record that somebody else may have changed.
    pub(crate) fn merge_if_known(&mut self, record: &Instance) {
        if record.node() == &self.own || self.facts.contains_key(record.id()) {
            self.learn(record, false);
        }
    }

    pub(crate) fn saw(&mut self, cursor: Cursor) {
        self.cursor = self.cursor.max(cursor);
    }

    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.learnt)
    }

    /// All that proxies must know, as the store had it at some time after `before`: what visitors had by then and what is
    /// not among it is gone.
    pub(crate) fn resync(&mut self, all: &[Instance], before: Mark, now: Instant) {
        let there: std::collections::HashSet<_> = all.iter().map(Instance::id).collect();
        let lost = |fact: &Fact| match fact {
            Fact::There { record, at, .. } if *at <= before.0 && !there.contains(record.id()) => {
                record.lease().map(|_| record.clone())
            }
            _ => None,
        };
        let lost: Vec<Instance> = self.facts.values().filter_map(lost).collect();
        lost.iter().for_each(|record| self.end(record, now));
        all.iter().for_each(|record| self.merge_if_known(record));
    }

    /// What nobody has had, as far as is known here.
    pub(crate) fn unclaimed(&self) -> Vec<InstanceId> {
        let unclaimed = |fact: &Fact| match fact {
            Fact::There { record, .. } if record.lease().is_none() => Some(record.id().clone()),
            _ => None,
        };
        self.facts.values().filter_map(unclaimed).collect()
    }

    /// The store no longer has a record that was unclaimed, and learnt of by `before`: it removed it to be sure.
    pub(crate) fn forget(&mut self, id: &InstanceId, before: Mark) {
        if let Some(Fact::There { record, at, .. }) = self.facts.get(id)
            && *at <= before.0
            && record.lease().is_none()
        {
            self.facts.remove(id);
        }
    }

    /// All of it as the scripts of a recovery read it: an id, and its record, with a sign in front if it was handed out
    /// here (`+` its visitor was told, `?` nobody knows), or how it is gone.
    pub(crate) fn report(&self) -> Vec<(InstanceId, String)> {
        let told = |(id, fact): (&InstanceId, &Fact)| match fact {
            Fact::There { record, doubtful: true, .. } if record.lease().is_none() => {
                (id.clone(), format!("gone|{}|", record.generation() + 1))
            }
            Fact::There { record, granted, confirmed, .. } => {
                let sign = match (granted, confirmed) {
                    (true, true) => "+",
                    (true, false) => "?",
                    (false, _) => "",
                };
                (id.clone(), sign.to_owned() + &record_codec::write(record))
            }
            Fact::Gone { generation, token } => {
                let token = token.map(record_codec::token).unwrap_or_default();
                (id.clone(), format!("gone|{generation}|{token}"))
            }
        };
        self.facts.iter().map(told).collect()
    }

    /// What has to be written down since this was last asked.
    pub(crate) fn take_notes(&mut self) -> Vec<(RouteChange, bool)> {
        std::mem::take(&mut self.notes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Millis;
    use crate::instance::TemplateName;

    fn own() -> NodeId {
        NodeId::parse("own").unwrap()
    }

    fn known() -> LocalView {
        LocalView::new(own())
    }

    fn warming(node: &str) -> Instance {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        Instance::warming(id, NodeId::parse(node).unwrap(), 1, Millis(1))
    }

    /// An instance's whole life, each step its own record.
    fn life(node: &str) -> Vec<Instance> {
        let warming = warming(node);
        let ready = warming.offered(([127, 0, 0, 1], 80).into()).unwrap();
        let held = ready.assigned(ClaimToken(7), Millis(10), Duration::from_secs(1)).unwrap();
        let longer =
            held.extended(Duration::from_secs(1), Duration::from_secs(9), Millis(20)).unwrap().unwrap();
        let ended = longer.failed(Millis(30)).unwrap().unwrap();
        vec![warming, ready, held, longer, ended]
    }

    fn told(known: &LocalView) -> Vec<String> {
        known.report().into_iter().map(|(_, text)| text).collect()
    }

    fn unsigned(known: &LocalView) -> Vec<String> {
        told(known).iter().map(|text| text.trim_start_matches(['+', '?']).to_owned()).collect()
    }

    #[test]
    fn of_others_only_what_was_handed_out_here_is_known() {
        let (mut known, now) = (known(), Instant::now());
        let theirs = life("other");
        known.follow(&RouteChange::Set(theirs[2].clone()), now);
        assert!(known.report().is_empty());
        known.learn(&theirs[2], true);
        known.follow(&RouteChange::Set(theirs[4].clone()), now);
        assert_eq!(told(&known), ["+".to_owned() + &record_codec::write(&theirs[4])]);
        let ours = life("own");
        known.follow(&RouteChange::Set(ours[2].clone()), now);
        assert_eq!(known.report().len(), 2);
    }

    #[test]
    fn what_was_handed_out_here_is_to_be_written_down_once_a_step() {
        let (mut known, now) = (known(), Instant::now());
        let steps = life("own");
        known.learn(&steps[0], false);
        known.learn(&steps[1], false);
        assert_eq!(known.take_notes(), []);
        known.follow(&RouteChange::Set(steps[2].clone()), now);
        known.learn(&steps[2], true);
        known.follow(&RouteChange::Set(steps[2].clone()), now);
        assert_eq!(known.take_notes(), [(RouteChange::Set(steps[2].clone()), true)]);
        known.end(&steps[2], now);
        known.end(&steps[2], now);
        assert_eq!(known.take_notes(), [(RouteChange::Gone(steps[2].id().clone()), false)]);
    }

    #[test]
    fn a_snapshot_without_it_ends_what_a_visitor_had_before_it_and_nothing_else() {
        let (mut known, now) = (known(), Instant::now());
        let (had, ready, new) = (life("own"), life("own"), life("own"));
        known.learn(&had[2], true);
        known.learn(&ready[1], false);
        let mark = known.mark();
        known.learn(&new[2], true);
        known.resync(&[], mark, now);
        let mut told = told(&known);
        told.sort();
        let granted = "?".to_owned() + &record_codec::write(&new[2]);
        let mut expected = [format!("gone|4|{:032x}", 7), record_codec::write(&ready[1]), granted];
        expected.sort();
        assert_eq!(told, expected);
        assert_eq!(known.unclaimed(), [ready[0].id().clone()]);
        known.forget(ready[0].id(), known.mark());
        known.forget(new[0].id(), known.mark());
        assert_eq!(known.report().len(), 2);
    }

    #[test]
    fn what_was_to_end_is_not_told_as_ready() {
        let mut known = known();
        let steps = life("own");
        known.learn(&steps[1], false);
        known.doubt(steps[1].id());
        assert_eq!(told(&known), ["gone|3|"]);
        known.merge_if_known(&steps[2]);
        assert_eq!(told(&known), [record_codec::write(&steps[2])], "a visitor was faster");
    }

    #[test]
    fn what_is_long_gone_is_forgotten() {
        let (mut known, now) = (known(), Instant::now());
        for _ in 0..3 {
            known.end(&life("own")[2], now);
        }
        known.end(&life("own")[2], now + REMEMBERED + Duration::from_secs(1));
        assert_eq!(known.report().len(), 1);
    }

    proptest! {
        /// Answers, events and snapshots tell the same steps in whatever order.
        #[test]
        fn the_order_of_learning_does_not_matter(order in vec((0_usize..5, any::<bool>()), 1..12), ends in any::<bool>()) {
            let (steps, now) = (life("own"), Instant::now());
            let (mut one, mut other) = (known(), known());
            for (step, here) in &order {
                one.learn(&steps[*step], *here && *step >= 2);
            }
            let last = order.iter().map(|(step, _)| *step).max().unwrap();
            if ends {
                one.end(&steps[last], now);
                other.end(&steps[last], now);
            }
            for (step, here) in order.iter().rev() {
                other.learn(&steps[*step], *here && *step >= 2);
            }
            if ends {
                prop_assert!(told(&one) == told(&other) && told(&one)[0].starts_with("gone|"));
            } else {
                prop_assert_eq!(unsigned(&one), unsigned(&other));
                prop_assert_eq!(unsigned(&one), vec![record_codec::write(&steps[last])]);
            }
        }
    }
}
