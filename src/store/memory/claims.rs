//! What became of the claims of one template: makes a repeated claim get the same answer.

use std::collections::{HashMap, VecDeque};

use super::records::Slot;
use crate::clock::Millis;
use crate::instance::{ClaimToken, RETENTION};

/// What a token got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The record in this slot, which is assigned or expired.
    Holds(Slot),
    /// An instance that was given back. Known until then, so that a late retry does not get a second one.
    Over {
        /// From when on the token counts as never seen.
        until: Millis,
    },
}

#[derive(Default)]
pub(super) struct Claims {
    fates: HashMap<ClaimToken, Fate>,
    /// Those that are over, in order of their end.
    over: VecDeque<(Millis, ClaimToken)>,
}

impl Claims {
    /// What the token got, if it is still known.
    pub(super) fn fate(&self, token: ClaimToken, now: Millis) -> Option<Fate> {
        let fate = self.fates.get(&token).copied();
        fate.filter(|fate| !matches!(fate, Fate::Over { until } if *until <= now))
    }

    /// It got the record in `slot`.
    pub(super) fn granted(&mut self, token: ClaimToken, slot: Slot) {
        self.fates.insert(token, Fate::Holds(slot));
    }

    /// It has no instance any more, or never will.
    pub(super) fn over(&mut self, token: ClaimToken, now: Millis) {
        let until = now + RETENTION;
        self.fates.insert(token, Fate::Over { until });
        self.over.push_back((until, token));
    }

    /// Its instance expired long ago.
    pub(super) fn forgotten(&mut self, token: ClaimToken) {
        self.fates.remove(&token);
    }

    /// Drops at most `limit` tokens that are of no use any more.
    pub(super) fn tidy(&mut self, now: Millis, limit: usize) {
        for _ in 0..limit {
            let Some((until, token)) = self.over.pop_front_if(|(until, _)| *until <= now) else { return };
            // A token used again since then has a new fate.
            if self.fates.get(&token) == Some(&Fate::Over { until }) {
                self.fates.remove(&token);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.fates.len().max(self.over.len())
    }
}
