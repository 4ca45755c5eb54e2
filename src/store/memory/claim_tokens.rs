//! What became of the claim tokens of one template, so that a repeated claim gets the same answer.

use std::collections::{HashMap, VecDeque};

use super::records::Slot;
use crate::clock::Millis;
use crate::instance::{ClaimToken, RETENTION};

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenState {
    /// The token got the record in this slot, which is assigned or expired.
    Granted(Slot),
    /// The token's instance was released, or its claim was undone. A late retry must not get a second instance.
    Spent {
        /// From when on the token counts as new.
        until: Millis,
    },
}

/// The known tokens of one template.
#[derive(Default)]
pub(super) struct ClaimTokens {
    states: HashMap<ClaimToken, TokenState>,
    /// The spent tokens, in order of the time when they count as new again.
    spent: VecDeque<(Millis, ClaimToken)>,
}

impl ClaimTokens {
    /// Returns what became of a token; `None` when it counts as new.
    pub(super) fn state(&self, token: ClaimToken, now: Millis) -> Option<TokenState> {
        let state = self.states.get(&token).copied();
        state.filter(|state| !matches!(state, TokenState::Spent { until } if *until <= now))
    }

    /// Records that the token got the record in `slot`.
    pub(super) fn grant(&mut self, token: ClaimToken, slot: Slot) {
        self.states.insert(token, TokenState::Granted(slot));
    }

    /// Records that the token has no instance any more, or never gets one.
    pub(super) fn spend(&mut self, token: ClaimToken, now: Millis) {
        let until = now + RETENTION;
        self.states.insert(token, TokenState::Spent { until });
        self.spent.push_back((until, token));
    }

    /// Removes a token whose instance expired and is past its retention.
    pub(super) fn forget(&mut self, token: ClaimToken) {
        self.states.remove(&token);
    }

    /// Removes at most `limit` spent tokens that count as new again.
    pub(super) fn remove_stale(&mut self, now: Millis, limit: usize) {
        for _ in 0..limit {
            let Some((until, token)) = self.spent.pop_front_if(|(until, _)| *until <= now) else { return };
            // A token that was used again since then has a newer state.
            if self.states.get(&token) == Some(&TokenState::Spent { until }) {
                self.states.remove(&token);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.states.len().max(self.spent.len())
    }
}
