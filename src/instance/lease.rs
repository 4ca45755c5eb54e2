//! A visitor's right to an instance, and how long it lasts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ClaimToken;
use crate::clock::Millis;

/// One visitor's right to one instance, from its assignment until its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    token: ClaimToken,
    assigned_at: Millis,
    deadline: Millis,
}

/// Why a lease was not made longer; it is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtendRefused {
    /// The deadline has passed.
    #[error("the lease has ended")]
    Over,
    /// The new deadline would lie more than the longest time after the assignment.
    #[error("the lease would pass its longest time of {0:?} from assignment")]
    MaxTtlExceeded(Duration),
}

impl Lease {
    /// A lease as a store recorded it.
    pub(crate) fn recorded(token: ClaimToken, assigned_at: Millis, deadline: Millis) -> Self {
        Self { token, assigned_at, deadline }
    }

    /// A lease that begins now and lasts for `ttl`.
    pub fn new(token: ClaimToken, now: Millis, ttl: Duration) -> Self {
        Self { token, assigned_at: now, deadline: now + ttl }
    }

    /// The token of the claim that made it.
    pub fn token(&self) -> ClaimToken {
        self.token
    }

    /// When it began.
    pub fn assigned_at(&self) -> Millis {
        self.assigned_at
    }

    /// When it ends; at this very moment it is over.
    pub fn deadline(&self) -> Millis {
        self.deadline
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: Millis) -> bool {
        now >= self.deadline
    }

    /// Time left; zero when over.
    pub fn remaining(&self, now: Millis) -> Duration {
        self.deadline.since(now)
    }

    /// The same lease with a deadline later by `by`, never past `max_ttl` from assignment.
    pub fn extended(self, by: Duration, max_ttl: Duration, now: Millis) -> Result<Self, ExtendRefused> {
        if self.is_over(now) {
            return Err(ExtendRefused::Over);
        }
        let deadline = self.deadline + by;
        if deadline > self.assigned_at + max_ttl {
            return Err(ExtendRefused::MaxTtlExceeded(max_ttl));
        }
        Ok(Self { deadline, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MINUTE: Duration = Duration::from_secs(60);

    fn lease() -> Lease {
        Lease::new(ClaimToken(1), Millis(1_000), 10 * MINUTE)
    }

    #[test]
    fn an_extension_counts_from_the_deadline_up_to_the_longest_time() {
        let longer = lease().extended(20 * MINUTE, 30 * MINUTE, Millis(2_000)).unwrap();
        assert_eq!(longer.deadline(), Millis(1_000) + 30 * MINUTE);
        assert_eq!(
            longer.extended(MINUTE, 30 * MINUTE, Millis(2_000)),
            Err(ExtendRefused::MaxTtlExceeded(30 * MINUTE))
        );
    }

    #[test]
    fn a_lease_is_over_at_its_very_deadline_and_cannot_be_revived() {
        let now = lease().deadline();
        assert!(!lease().is_over(Millis(now.0 - 1)));
        assert!(lease().is_over(now));
        assert_eq!(lease().extended(MINUTE, 60 * MINUTE, now), Err(ExtendRefused::Over));
    }
}
