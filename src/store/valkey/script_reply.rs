//! What a script answered: a list of words, read one after the other.

use std::time::Duration;
use std::vec::IntoIter;

use super::damage::SharedDamageReport;
use super::record_codec;
use crate::clock::Millis;
use crate::instance::{
    ExtendRefused, Instance, InstanceId, RateLimited, RateLimits, RateUsage, TransitionRefused,
};
use crate::store::{Claimed, Cursor, NodeInfo, NodeStatus, Quota, RouteChange, StoreError};

/// The words of an answer that are not read yet.
pub(super) struct ScriptReply {
    words: IntoIter<String>,
    damage: SharedDamageReport,
}

impl ScriptReply {
    pub(super) fn new(words: Vec<String>, damage: SharedDamageReport) -> Self {
        Self { words: words.into_iter(), damage }
    }

    fn malformed(&self) -> StoreError {
        self.damage.malformed()
    }

    /// Reads a word.
    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.words.next().ok_or_else(|| self.malformed())
    }

    /// Returns all remaining words.
    pub(super) fn remaining(self) -> impl Iterator<Item = String> {
        self.words
    }

    /// Reads a number.
    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        self.text()?.parse().map_err(|_| self.malformed())
    }

    /// Reads a time.
    pub(super) fn millis(&mut self) -> Result<Millis, StoreError> {
        self.number().map(Millis)
    }

    /// Reads the record of the instance with that id.
    pub(super) fn record(&mut self, id: &str) -> Result<Instance, StoreError> {
        record_codec::read(id, &self.text()?).ok_or_else(|| self.malformed())
    }

    /// Reads the record of the instance with that id; `None` if there is none.
    pub(super) fn optional_record(&mut self, id: &str) -> Result<Option<Instance>, StoreError> {
        match self.text()?.as_str() {
            "" => Ok(None),
            text => record_codec::read(id, text).ok_or_else(|| self.malformed()).map(Some),
        }
    }

    /// Reads all remaining words: ids, each with its record.
    pub(super) fn records(mut self, mut each: impl FnMut(Instance)) -> Result<(), StoreError> {
        while let Some(id) = self.words.next() {
            each(self.record(&id)?);
        }
        Ok(())
    }

    /// Reads all remaining words: route events.
    pub(super) fn events(mut self) -> Result<Vec<(Cursor, RouteChange)>, StoreError> {
        let mut events = Vec::new();
        while let Some(number) = self.words.next() {
            let cursor = Cursor(number.parse().map_err(|_| self.malformed())?);
            let id = self.text()?;
            let change = match self.optional_record(&id)? {
                None => RouteChange::Gone(InstanceId::parse(&id).map_err(|_| self.malformed())?),
                Some(record) => RouteChange::Set(record),
            };
            events.push((cursor, change));
        }
        Ok(events)
    }

    /// Reads all remaining words: nodes. Returns them in the order of their names.
    pub(super) fn nodes(mut self) -> Result<Vec<NodeStatus>, StoreError> {
        let mut nodes = Vec::new();
        while let Some(info) = self.words.next() {
            let (silence, is_draining) = (Duration::from_millis(self.number()?), self.text()? == "1");
            // A node of another version may report of itself in another format. It is left out, the others are not.
            if let Ok(info) = serde_json::from_str::<NodeInfo>(&info) {
                nodes.push(NodeStatus { info, silence, is_draining });
            }
        }
        nodes.sort_by(|a, b| a.info.id.cmp(&b.info.id));
        Ok(nodes)
    }

    /// Reads the outcome of a step.
    pub(super) fn outcome(&mut self) -> Result<(), StoreError> {
        match self.text()?.as_str() {
            "ok" => Ok(()),
            "unknown" => Err(StoreError::Unknown),
            "exists" => Err(StoreError::Exists),
            "refused" => {
                let (from, step) = (self.text()?, self.text()?);
                let known = |text: &str, all: &[&'static str]| all.iter().copied().find(|one| *one == text);
                let from = known(&from, &["warming", "ready", "assigned", "expired"])
                    .ok_or_else(|| self.malformed())?;
                let step = known(&step, &["be inserted", "be offered", "be retired", "be withdrawn"])
                    .ok_or_else(|| self.malformed())?;
                Err(TransitionRefused { from, step }.into())
            }
            _ => Err(self.malformed()),
        }
    }

    /// Reads the outcome of an extension; `max_ttl` and `limits` are those that applied.
    pub(super) fn extended(&mut self, max_ttl: Duration, limits: RateLimits) -> Result<(), StoreError> {
        match self.text()?.as_str() {
            "ok" => Ok(()),
            "unknown" => Err(StoreError::Unknown),
            "beyond" => Err(ExtendRefused::MaxTtlExceeded(max_ttl).into()),
            "limited" => {
                let (now, usages) = (self.millis()?, self.usages()?);
                let limited = rate_limited(&usages, None, limits, now).ok_or_else(|| self.malformed())?;
                Err(ExtendRefused::RateLimited(limited).into())
            }
            _ => Err(self.malformed()),
        }
    }

    /// Reads the outcome of a claim; `limits` are those that applied.
    pub(super) fn claimed(mut self, limits: RateLimits) -> Result<Claimed, StoreError> {
        let outcome = self.text()?;
        if outcome == "empty" {
            return Ok(Claimed::Empty);
        }
        let (now, may_claim_at) = (self.millis()?, record_codec::read_millis(&self.text()?));
        let usages = self.usages()?;
        match outcome.as_str() {
            "limited" => {
                let limited =
                    rate_limited(&usages, may_claim_at, limits, now).ok_or_else(|| self.malformed())?;
                Ok(Claimed::RateLimited(limited))
            }
            "granted" => {
                let id = self.text()?;
                let instance = self.record(&id)?;
                Ok(Claimed::Granted { instance, quota: Quota::tightest(usages.into_iter(), limits, now) })
            }
            _ => Err(self.malformed()),
        }
    }

    /// Reads the usages of a visitor's networks, each with the network's factor.
    fn usages(&mut self) -> Result<Vec<(u32, RateUsage)>, StoreError> {
        let count = self.number()?;
        let mut usage = || {
            let factor = u32::try_from(self.number()?).unwrap_or(u32::MAX);
            Ok((factor, RateUsage::recorded(self.window()?, self.window()?)))
        };
        (0..count).map(|_| usage()).collect()
    }

    fn window(&mut self) -> Result<Option<(Millis, u32)>, StoreError> {
        let (opened, used) = (self.text()?, self.number()?);
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        Ok(record_codec::read_millis(&opened).map(|opened| (opened, used)))
    }
}

/// Returns the refusal of a visitor with these usages, who may have one more instance at a time from `may_claim_at` on.
fn rate_limited(
    usages: &[(u32, RateUsage)],
    may_claim_at: Option<Millis>,
    limits: RateLimits,
    now: Millis,
) -> Option<RateLimited> {
    let waits = usages.iter().filter_map(|(factor, usage)| usage.wait(limits.times(*factor), now));
    RateLimited::with_waits(limits, waits.max(), may_claim_at.map(|at| at.since(now)))
}
