//! A claim, and its outcome.

use std::cmp::Reverse;
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::{
    ClaimToken, Instance, NodeId, RateLimited, RateLimits, RateUsage, TemplateName, Visitor,
};

/// How long a claim may stay unconfirmed before a sweep ends its instance.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);

/// A request for one ready instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The template of the instance.
    pub template: TemplateName,
    /// Makes the claim idempotent: a claim repeated with the same token gets the same instance and is charged once,
    /// even if its other fields differ. A token gets at most one instance, ever: see
    /// [`Store::claim`](super::Store::claim).
    pub token: ClaimToken,
    /// The node whose instances are preferred.
    pub node: NodeId,
    /// The visitor who is charged, in each of the visitor's networks.
    pub visitor: Visitor,
    /// The rate limits that apply to the visitor.
    pub limits: RateLimits,
    /// How long the lease lasts.
    pub ttl: Duration,
}

/// What a visitor may still claim in the tightest of the rate-limit windows, of all networks of the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Instances allowed in such a window, as configured.
    pub limit: u32,
    /// Instances still allowed.
    pub remaining: u32,
    /// Time until the window ends.
    pub reset: Duration,
}

impl Quota {
    /// Returns the quota of a visitor from the usage of each network, which is given with the network's factor.
    pub(crate) fn tightest(
        usages: impl Iterator<Item = (u32, RateUsage)>,
        limits: RateLimits,
        now: Millis,
    ) -> Option<Self> {
        let quotas = usages.filter_map(|(factor, usage)| {
            let (remaining, limit, reset) = usage.remaining(limits, factor, now)?;
            Some(Self { limit, remaining, reset })
        });
        quotas.min_by_key(|quota| (quota.remaining, Reverse(quota.reset)))
    }
}

/// The outcome of a claim. Only `Granted` charges the visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The instance is assigned to the visitor; its lease has the deadline.
    Granted {
        /// The record, assigned.
        instance: Instance,
        /// What the visitor may still claim; `None` without limits.
        quota: Option<Quota>,
    },
    /// The visitor has reached a rate limit.
    RateLimited(RateLimited),
    /// No instance is ready, or the instance that the token got has ended.
    Empty,
}

impl Claimed {
    /// Returns the instance, if one was granted.
    pub fn instance(&self) -> Option<&Instance> {
        match self {
            Claimed::Granted { instance, .. } => Some(instance),
            Claimed::RateLimited(_) | Claimed::Empty => None,
        }
    }
}
