//! What a script answered, word by word.

use std::time::Duration;
use std::vec::IntoIter;

use super::record_codec;
use crate::clock::Millis;
use crate::instance::{ExtendRefused, Instance, InstanceId, Limits, Refused, Usage};
use crate::store::{Claimed, Cursor, NodeInfo, NodeStatus, Quota, RouteChange, StoreError};

/// The words of an answer that are not read yet.
pub(super) struct Reply(IntoIter<String>);

/// What no script of ours answers.
pub(super) fn broken() -> StoreError {
    StoreError::Unavailable("what it holds is not what this program wrote".to_owned())
}

impl Reply {
    pub(super) fn new(words: Vec<String>) -> Self {
        Self(words.into_iter())
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.0.next().ok_or_else(broken)
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        self.text()?.parse().map_err(|_| broken())
    }

    pub(super) fn millis(&mut self) -> Result<Millis, StoreError> {
        self.number().map(Millis)
    }

    /// The record of that id.
    pub(super) fn record(&mut self, id: &str) -> Result<Instance, StoreError> {
        record_codec::read(id, &self.text()?).ok_or_else(broken)
    }

    /// All that is left: ids, each with its record.
    pub(super) fn records(mut self, mut each: impl FnMut(Instance)) -> Result<(), StoreError> {
        while let Some(id) = self.0.next() {
            each(self.record(&id)?);
        }
        Ok(())
    }

    /// All that is left: events.
    pub(super) fn events(mut self) -> Result<Vec<(Cursor, RouteChange)>, StoreError> {
        let mut events = Vec::new();
        while let Some(number) = self.0.next() {
            let cursor = Cursor(number.parse().map_err(|_| broken())?);
            let (id, text) = (self.text()?, self.text()?);
            let change = match text.as_str() {
                "" => RouteChange::Gone(InstanceId::parse(&id).map_err(|_| broken())?),
                text => RouteChange::Set(record_codec::read(&id, text).ok_or_else(broken)?),
            };
            events.push((cursor, change));
        }
        Ok(events)
    }

    /// All that is left: nodes.
    pub(super) fn members(mut self) -> Result<Vec<NodeStatus>, StoreError> {
        let mut members = Vec::new();
        while let Some(card) = self.0.next() {
            let (silent, draining) = (Duration::from_millis(self.number()?), self.text()? == "1");
            // One of another version of this program, which tells of itself in another way, is no reason to know nobody.
            if let Ok(card) = serde_json::from_str::<NodeInfo>(&card) {
                members.push(NodeStatus { card, silent, draining });
            }
        }
        members.sort_by(|a, b| a.card.id.cmp(&b.card.id));
        Ok(members)
    }

    /// How a step ended.
    pub(super) fn outcome(&mut self) -> Result<(), StoreError> {
        match self.text()?.as_str() {
            "ok" => Ok(()),
            "unknown" => Err(StoreError::Unknown),
            "exists" => Err(StoreError::Exists),
            "refused" => {
                let (from, step) = (self.text()?, self.text()?);
                let known = |text: &str, all: &[&'static str]| all.iter().copied().find(|one| *one == text);
                let from = known(&from, &["warming", "ready", "assigned", "expired"]).ok_or_else(broken)?;
                let step = known(&step, &["be inserted", "be offered", "be retired"]).ok_or_else(broken)?;
                Err(Refused { from, step }.into())
            }
            _ => Err(broken()),
        }
    }

    /// How an extension ended.
    pub(super) fn extended(&mut self, longest: Duration) -> Result<(), StoreError> {
        match self.text()?.as_str() {
            "ok" => Ok(()),
            "unknown" => Err(StoreError::Unknown),
            "beyond" => Err(ExtendRefused::MaxTtlExceeded(longest).into()),
            _ => Err(broken()),
        }
    }

    /// How a claim ended.
    pub(super) fn claimed(mut self, limits: Limits) -> Result<Claimed, StoreError> {
        let how = self.text()?;
        if how == "empty" {
            return Ok(Claimed::Empty);
        }
        let now = self.millis()?;
        let usage = Usage::recorded(self.window()?, self.window()?);
        match how.as_str() {
            "limited" => match usage.charged(limits, now) {
                Err(limited) => Ok(Claimed::RateLimited(limited)),
                Ok(_) => Err(broken()),
            },
            "granted" => {
                let id = self.text()?;
                let instance = self.record(&id)?;
                let quota = usage.remaining(limits, now);
                let quota = quota.map(|(remaining, limit, reset)| Quota { limit, remaining, reset });
                Ok(Claimed::Granted { instance, quota })
            }
            _ => Err(broken()),
        }
    }

    fn window(&mut self) -> Result<Option<(Millis, u32)>, StoreError> {
        let (opened, used) = (self.text()?, self.number()?);
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        Ok(record_codec::millis(&opened).map(|opened| (opened, used)))
    }
}
