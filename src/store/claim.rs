//! A claim, and its outcome.

use std::time::Duration;

use crate::instance::{ClaimToken, Instance, NodeId, RateLimited, RateLimits, TemplateName};

/// How long a claim may stay unconfirmed before a sweep ends its instance.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);

/// A visitor as rate limits count visitors: an IPv4 address, or an IPv6 /64, as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visitor(pub String);

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
    /// The visitor who is charged.
    pub visitor: Visitor,
    /// The rate limits that apply to the visitor.
    pub limits: RateLimits,
    /// How long the lease lasts.
    pub ttl: Duration,
}

/// What a visitor may still claim in the tighter of the two rate-limit windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Instances allowed in the window.
    pub limit: u32,
    /// Instances still allowed.
    pub remaining: u32,
    /// Time until the window ends.
    pub reset: Duration,
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
