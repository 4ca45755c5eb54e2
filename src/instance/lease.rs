//! A lease: a visitor's time with an instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClaimToken, RateLimited};
use crate::clock::Millis;

/// One visitor's time with one instance, from the claim to the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    token: ClaimToken,
    assigned_at: Millis,
    deadline: Millis,
}

/// Why a lease was not extended. The lease is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtendRefused {
    /// The deadline has passed.
    #[error("the lease has ended")]
    Over,
    /// The new deadline would lie more than the maximum TTL after the assignment.
    #[error("the lease would pass its maximum of {0:?} from assignment")]
    MaxTtlExceeded(Duration),
    /// The visitor of the lease has reached a limit, for which an extension counts as an instance does.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
}

impl Lease {
    /// Rebuilds a lease from a store's record.
    pub(crate) fn recorded(token: ClaimToken, assigned_at: Millis, deadline: Millis) -> Self {
        Self { token, assigned_at, deadline }
    }

    /// Returns a lease that begins at `now` and lasts for `ttl`.
    pub fn new(token: ClaimToken, now: Millis, ttl: Duration) -> Self {
        Self { token, assigned_at: now, deadline: now + ttl }
    }

    /// Returns the token of the claim that began the lease.
    pub fn token(&self) -> ClaimToken {
        self.token
    }

    /// Returns when the lease began.
    pub fn assigned_at(&self) -> Millis {
        self.assigned_at
    }

    /// Returns when the lease ends. It is over at this very moment.
    pub fn deadline(&self) -> Millis {
        self.deadline
    }

    /// Returns whether the lease has ended.
    pub fn is_over(&self, now: Millis) -> bool {
        now >= self.deadline
    }

    /// Returns the time until the deadline; zero when the lease is over.
    pub fn remaining(&self, now: Millis) -> Duration {
        self.deadline.since(now)
    }

    /// Returns the lease with a deadline that is later by `by`.
    ///
    /// # Errors
    /// `Over`, or `MaxTtlExceeded` where the new deadline would lie more than `max_ttl` after the assignment. The store
    /// checks the limits of the visitor.
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
    fn an_extension_counts_from_the_deadline_up_to_the_maximum_ttl() {
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
