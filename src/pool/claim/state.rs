//! What the claims of this node keep.

use std::sync::Arc;
use std::time::Duration;

use super::delivery::Ledger;
use super::refused_visitors::RefusedVisitors;
use crate::pool::Supply;
use crate::pool::shared_state::SharedState;
use crate::pool::supply::hooks::RandomTextSources;
use crate::template::{Secret, Templates};

/// Assigns the instances of all nodes to visitors.
pub struct Claims {
    pub(super) shared: Arc<SharedState>,
    pub(super) supply: Arc<Supply>,
    /// How far the answers got that assigned instances.
    pub(in crate::pool) ledger: Arc<Ledger>,
    /// The visitors whom a rate limit refused a moment ago.
    pub(super) refused_visitors: RefusedVisitors,
    pub(super) acquire_timeout: Duration,
}

impl Claims {
    pub(in crate::pool) fn new(
        shared: Arc<SharedState>,
        supply: Arc<Supply>,
        ledger: Arc<Ledger>,
        acquire_timeout: Duration,
    ) -> Self {
        Self { shared, supply, ledger, refused_visitors: RefusedVisitors::default(), acquire_timeout }
    }

    /// Returns the templates whose instances can be acquired: those that are configured at present.
    pub fn templates(&self) -> Arc<Templates> {
        self.shared.template_pools.configured()
    }

    /// Returns the secret that signs challenges of the proof of work, which all nodes share; `None` before it is known.
    pub fn proof_of_work_secret(&self) -> Option<&Secret> {
        self.supply.random_texts.get().map(RandomTextSources::proof_of_work_secret)
    }
}
