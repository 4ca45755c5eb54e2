//! What this node knows of the instances, whatever happens to Valkey: those that it runs, and those that it granted.
//!
//! A Valkey that lost data gets its content from the local views of all nodes, see [`super`].
//!
//! The facts about an instance belong to one history, so they can be merged in any order. Of two records the newer one
//! wins: an expired one, else the one with the higher generation. The end of an instance wins against all its records
//! of earlier generations.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::instance::{ClaimToken, Instance, InstanceId, NodeId, State};
use crate::store::valkey::record_codec;
use crate::store::{Cursor, RouteChange};

/// How long the view knows that an instance is gone. A Valkey comes back with data younger than this, or with none.
const GONE_RETENTION: Duration = Duration::from_secs(600);

/// Most instances that the view knows to be gone; beyond that it forgets the oldest first.
const MAX_GONE: usize = 100_000;

/// What this node knows of the instances that it runs or granted.
///
/// An instance is *granted here* if a claim that this node made got it.
#[derive(Debug)]
pub(crate) struct LocalView {
    node: NodeId,
    facts: HashMap<InstanceId, Fact>,
    /// The instances that are gone, in the order in which the view learnt it.
    gone: VecDeque<(Instant, InstanceId)>,
    /// How many records the view has merged.
    version: u64,
    /// The greatest cursor seen.
    cursor: Cursor,
    /// All route events up to this one are merged.
    followed: Cursor,
    /// Changes of instances granted here that the journal lacks, each with whether the claim is unconfirmed.
    unjournaled: Vec<(RouteChange, bool)>,
}

#[derive(Debug)]
enum Fact {
    Present {
        record: Instance,
        is_granted_here: bool,
        /// Whether the claim is confirmed. Meaningful if it was granted here.
        is_confirmed: bool,
        /// Whether this node wanted to end the instance, and may have done so: no visitor may get it.
        is_doubtful: bool,
        /// The version of the view with this record.
        since: ViewVersion,
    },
    Gone {
        /// The generation that the next record would have had.
        generation: u64,
        /// The token of the claim that got the instance.
        token: Option<ClaimToken>,
    },
}

/// A version of the view. It grows with each record that is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ViewVersion(u64);

/// Orders the records of one instance from older to newer. `is_newer` in `recover_report.lua` has the same order.
fn rank(record: &Instance) -> (bool, u64, u8, u64) {
    let (is_expired, rank) = match record.state() {
        State::Warming => (false, 0),
        State::Ready { .. } => (false, 1),
        State::Assigned { .. } => (false, 2),
        State::Expired { .. } => (true, 3),
    };
    (is_expired, record.generation(), rank, record.lease().map_or(0, |lease| lease.deadline().0))
}

impl LocalView {
    /// Returns an empty view of that node.
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            facts: HashMap::new(),
            gone: VecDeque::new(),
            version: 0,
            cursor: Cursor(0),
            followed: Cursor(0),
            unjournaled: Vec::new(),
        }
    }

    /// Merges the record after a step that this node did. `is_granted_here` says that the step was a claim.
    pub(crate) fn merge(&mut self, record: &Instance, is_granted_here: bool) {
        let mut merged = (record.clone(), is_granted_here, false, false);
        match self.facts.get(record.id()) {
            Some(Fact::Gone { generation, .. }) if *generation >= record.generation() => return,
            Some(Fact::Present {
                record: known,
                is_granted_here: granted,
                is_doubtful,
                is_confirmed,
                ..
            }) => {
                let is_newer = rank(record) > rank(known);
                // A later step of a client confirms the claim: only a client that got the answer can ask for it.
                let confirmed = !(is_newer && is_granted_here) && (*is_confirmed || is_newer && *granted);
                let newest = if is_newer { record } else { known }.clone();
                merged = (newest, is_granted_here || *granted, *is_doubtful, confirmed);
                if !is_newer && merged.1 == *granted {
                    return;
                }
            }
            Some(Fact::Gone { .. }) | None => {}
        }
        self.version += 1;
        let (record, is_granted_here, is_doubtful, is_confirmed) = merged;
        if is_granted_here {
            self.unjournaled.push((RouteChange::Set(record.clone()), !is_confirmed));
        }
        let id = record.id().clone();
        let since = ViewVersion(self.version);
        self.facts.insert(id, Fact::Present { record, is_granted_here, is_doubtful, is_confirmed, since });
    }

    /// Merges a record that another node may have changed, if it is of an instance that this node runs or granted.
    pub(crate) fn merge_if_known(&mut self, record: &Instance) {
        if record.node() == &self.node || self.facts.contains_key(record.id()) {
            self.merge(record, false);
        }
    }

    /// Merges a record from the journal, which was granted here. It is not journaled again.
    pub(crate) fn restore(&mut self, record: &Instance, is_confirmed: bool) {
        self.merge(record, true);
        self.unjournaled.clear();
        if is_confirmed {
            self.confirm(record.id());
        }
    }

    /// Notes that the claim of an instance is confirmed.
    pub(crate) fn confirm(&mut self, id: &InstanceId) {
        if let Some(Fact::Present { is_confirmed, .. }) = self.facts.get_mut(id) {
            *is_confirmed = true;
        }
    }

    /// Notes that an instance is gone; `before` is its last record.
    pub(crate) fn merge_end(&mut self, before: &Instance, now: Instant) {
        let generation = before.generation() + 1;
        match self.facts.get(before.id()) {
            Some(Fact::Gone { generation: known, .. }) if *known >= generation => return,
            Some(Fact::Present { record, is_granted_here, .. }) => {
                if record.generation() >= generation {
                    return;
                }
                if *is_granted_here {
                    self.unjournaled.push((RouteChange::Gone(before.id().clone()), false));
                }
            }
            _ => {}
        }
        let token = before.lease().map(|lease| lease.token());
        self.facts.insert(before.id().clone(), Fact::Gone { generation, token });
        self.gone.push_back((now, before.id().clone()));
        self.forget_long_gone(now);
    }

    fn forget_long_gone(&mut self, now: Instant) {
        while let Some((at, _)) = self.gone.front()
            && (self.gone.len() > MAX_GONE || now.duration_since(*at) > GONE_RETENTION)
            && let Some((_, id)) = self.gone.pop_front()
        {
            if let Some(Fact::Gone { .. }) = self.facts.get(&id) {
                self.facts.remove(&id);
            }
        }
    }

    /// Notes that this node wants to end an instance: no visitor may get it, even if the step does not reach Valkey.
    pub(crate) fn mark_doubtful(&mut self, id: &InstanceId) {
        if let Some(Fact::Present { is_doubtful, .. }) = self.facts.get_mut(id) {
            *is_doubtful = true;
        }
    }

    /// Merges a route event of any instance.
    pub(crate) fn merge_change(&mut self, change: &RouteChange, now: Instant) {
        match change {
            RouteChange::Set(record) => self.merge_if_known(record),
            RouteChange::Gone(id) => {
                if let Some(Fact::Present { record, .. }) = self.facts.get(id) {
                    let before = record.clone();
                    self.merge_end(&before, now);
                }
            }
        }
    }

    /// Notes that a route event with that cursor exists.
    pub(crate) fn advance_cursor(&mut self, cursor: Cursor) {
        self.cursor = self.cursor.max(cursor);
    }

    /// Notes that all route events after `from` and up to `to` are merged.
    pub(crate) fn follow(&mut self, from: Cursor, to: Cursor) {
        if from <= self.followed {
            self.followed = self.followed.max(to);
        }
    }

    /// Notes that a snapshot of the routes with that cursor is merged.
    pub(crate) fn follow_snapshot(&mut self, cursor: Cursor) {
        self.followed = self.followed.max(cursor);
    }

    /// Returns up to which route event all are merged.
    pub(crate) fn followed(&self) -> Cursor {
        self.followed
    }

    /// Returns the instances that Valkey must have, each with its generation and the version of the view since which it
    /// is as it is. An instance that this node wanted to end may be gone.
    pub(crate) fn present(&self) -> Vec<(InstanceId, u64, ViewVersion)> {
        let present = |(id, fact): (&InstanceId, &Fact)| match fact {
            Fact::Present { record, is_doubtful: false, since, .. } => {
                Some((id.clone(), record.generation(), *since))
            }
            _ => None,
        };
        self.facts.iter().filter_map(present).collect()
    }

    /// Whether the view still knows an instance as it was at that version, and Valkey must have it.
    pub(crate) fn is_still_present(&self, id: &InstanceId, version: ViewVersion) -> bool {
        let fact = self.facts.get(id);
        matches!(fact, Some(Fact::Present { is_doubtful: false, since, .. }) if *since == version)
    }

    /// Returns the greatest cursor seen.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the present version.
    pub(crate) fn version(&self) -> ViewVersion {
        ViewVersion(self.version)
    }

    /// Merges a snapshot of the routes, which was read after the view had the version `before`. An assigned or expired
    /// instance that the view knew by then and the snapshot lacks is gone.
    pub(crate) fn merge_snapshot(&mut self, routes: &[Instance], before: ViewVersion, now: Instant) {
        let listed: HashSet<_> = routes.iter().map(Instance::id).collect();
        let gone = |fact: &Fact| match fact {
            Fact::Present { record, since, .. } if *since <= before && !listed.contains(record.id()) => {
                record.lease().map(|_| record.clone())
            }
            _ => None,
        };
        let gone: Vec<Instance> = self.facts.values().filter_map(gone).collect();
        gone.iter().for_each(|record| self.merge_end(record, now));
        routes.iter().for_each(|record| self.merge_if_known(record));
    }

    /// Returns the instances that no visitor has had, as far as this node knows.
    pub(crate) fn unclaimed(&self) -> Vec<InstanceId> {
        let unclaimed = |fact: &Fact| match fact {
            Fact::Present { record, .. } if record.lease().is_none() => Some(record.id().clone()),
            _ => None,
        };
        self.facts.values().filter_map(unclaimed).collect()
    }

    /// Forgets an unclaimed instance that the view knew at the version `before` and that Valkey does not have: a
    /// recovery removed it, because no report proved that it was unclaimed.
    pub(crate) fn forget_unclaimed(&mut self, id: &InstanceId, before: ViewVersion) {
        if let Some(Fact::Present { record, since, .. }) = self.facts.get(id)
            && *since <= before
            && record.lease().is_none()
        {
            self.facts.remove(id);
        }
    }

    /// Returns all facts in the format of `recover_report.lua`: an id, and its record with a sign in front if it was
    /// granted here (`+` confirmed, `?` unconfirmed), or its end.
    pub(crate) fn report(&self) -> Vec<(InstanceId, String)> {
        let reported = |(id, fact): (&InstanceId, &Fact)| match fact {
            Fact::Present { record, is_doubtful: true, .. } if record.lease().is_none() => {
                (id.clone(), format!("gone|{}|", record.generation() + 1))
            }
            Fact::Present { record, is_granted_here, is_confirmed, .. } => {
                let sign = match (is_granted_here, is_confirmed) {
                    (true, true) => "+",
                    (true, false) => "?",
                    (false, _) => "",
                };
                (id.clone(), sign.to_owned() + &record_codec::write(record))
            }
            Fact::Gone { generation, token } => {
                let token = token.map(record_codec::token_text).unwrap_or_default();
                (id.clone(), format!("gone|{generation}|{token}"))
            }
        };
        self.facts.iter().map(reported).collect()
    }

    /// Returns the changes that the journal lacks, and forgets them.
    pub(crate) fn take_unjournaled(&mut self) -> Vec<(RouteChange, bool)> {
        std::mem::take(&mut self.unjournaled)
    }
}

/// An instance that a check found without a record. It may have ended: the events up to `events` show whether it has.
pub(crate) struct MissingRecord {
    pub(super) id: InstanceId,
    pub(super) since: ViewVersion,
    pub(super) events: Cursor,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Millis;
    use crate::instance::TemplateName;

    fn this_node() -> NodeId {
        NodeId::parse("own").unwrap()
    }

    fn new_view() -> LocalView {
        LocalView::new(this_node())
    }

    fn warming(node: &str) -> Instance {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        Instance::warming(id, NodeId::parse(node).unwrap(), 1, Millis(1))
    }

    /// Returns the records of one instance, as it was after each step.
    fn records_after_each_step(node: &str) -> Vec<Instance> {
        let warming = warming(node);
        let ready = warming.offered(([127, 0, 0, 1], 80).into()).unwrap();
        let held = ready.assigned(ClaimToken(7), Millis(10), Duration::from_secs(1)).unwrap();
        let longer =
            held.extended(Duration::from_secs(1), Duration::from_secs(9), Millis(20)).unwrap().unwrap();
        let ended = longer.failed(Millis(30)).unwrap().unwrap();
        vec![warming, ready, held, longer, ended]
    }

    fn facts(view: &LocalView) -> Vec<String> {
        view.report().into_iter().map(|(_, text)| text).collect()
    }

    fn unsigned_facts(view: &LocalView) -> Vec<String> {
        facts(view).iter().map(|text| text.trim_start_matches(['+', '?']).to_owned()).collect()
    }

    #[test]
    fn of_other_nodes_instances_only_those_granted_here_are_known() {
        let (mut view, now) = (new_view(), Instant::now());
        let of_other_node = records_after_each_step("other");
        view.merge_change(&RouteChange::Set(of_other_node[2].clone()), now);
        assert!(view.report().is_empty());
        view.merge(&of_other_node[2], true);
        view.merge_change(&RouteChange::Set(of_other_node[4].clone()), now);
        assert_eq!(facts(&view), ["+".to_owned() + &record_codec::write(&of_other_node[4])]);
        let of_this_node = records_after_each_step("own");
        view.merge_change(&RouteChange::Set(of_this_node[2].clone()), now);
        assert_eq!(view.report().len(), 2);
    }

    #[test]
    fn each_step_of_an_instance_granted_here_is_journaled_once() {
        let (mut view, now) = (new_view(), Instant::now());
        let records = records_after_each_step("own");
        view.merge(&records[0], false);
        view.merge(&records[1], false);
        assert_eq!(view.take_unjournaled(), []);
        view.merge_change(&RouteChange::Set(records[2].clone()), now);
        view.merge(&records[2], true);
        view.merge_change(&RouteChange::Set(records[2].clone()), now);
        assert_eq!(view.take_unjournaled(), [(RouteChange::Set(records[2].clone()), true)]);
        view.merge_end(&records[2], now);
        view.merge_end(&records[2], now);
        assert_eq!(view.take_unjournaled(), [(RouteChange::Gone(records[2].id().clone()), false)]);
    }

    #[test]
    fn a_snapshot_ends_the_claimed_instances_that_it_lacks_and_no_others() {
        let (mut view, now) = (new_view(), Instant::now());
        let (had, ready, new) =
            (records_after_each_step("own"), records_after_each_step("own"), records_after_each_step("own"));
        view.merge(&had[2], true);
        view.merge(&ready[1], false);
        let version = view.version();
        view.merge(&new[2], true);
        view.merge_snapshot(&[], version, now);
        let mut reported = facts(&view);
        reported.sort();
        let granted = "?".to_owned() + &record_codec::write(&new[2]);
        let mut expected = [format!("gone|4|{:032x}", 7), record_codec::write(&ready[1]), granted];
        expected.sort();
        assert_eq!(reported, expected);
        assert_eq!(view.unclaimed(), [ready[0].id().clone()]);
        view.forget_unclaimed(ready[0].id(), view.version());
        view.forget_unclaimed(new[0].id(), view.version());
        assert_eq!(view.report().len(), 2);
    }

    #[test]
    fn a_doubtful_instance_is_not_reported_as_ready() {
        let mut view = new_view();
        let records = records_after_each_step("own");
        view.merge(&records[1], false);
        view.mark_doubtful(records[1].id());
        assert_eq!(facts(&view), ["gone|3|"]);
        view.merge_if_known(&records[2]);
        assert_eq!(facts(&view), [record_codec::write(&records[2])], "a visitor was faster");
    }

    #[test]
    fn an_instance_that_is_long_gone_is_forgotten() {
        let (mut view, now) = (new_view(), Instant::now());
        for _ in 0..3 {
            view.merge_end(&records_after_each_step("own")[2], now);
        }
        view.merge_end(&records_after_each_step("own")[2], now + GONE_RETENTION + Duration::from_secs(1));
        assert_eq!(view.report().len(), 1);
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        /// Answers, events and snapshots arrive in any order.
        #[test]
        fn the_order_of_merging_does_not_matter(order in vec((0_usize..5, any::<bool>()), 1..12), ends in any::<bool>()) {
            let (records, now) = (records_after_each_step("own"), Instant::now());
            let (mut one, mut other) = (new_view(), new_view());
            for (step, here) in &order {
                one.merge(&records[*step], *here && *step >= 2);
            }
            let last = order.iter().map(|(step, _)| *step).max().unwrap();
            if ends {
                one.merge_end(&records[last], now);
                other.merge_end(&records[last], now);
            }
            for (step, here) in order.iter().rev() {
                other.merge(&records[*step], *here && *step >= 2);
            }
            if ends {
                prop_assert!(facts(&one) == facts(&other) && facts(&one)[0].starts_with("gone|"));
            } else {
                prop_assert_eq!(unsigned_facts(&one), unsigned_facts(&other));
                prop_assert_eq!(unsigned_facts(&one), vec![record_codec::write(&records[last])]);
            }
        }
    }
}
