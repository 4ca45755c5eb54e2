//! Every store passes these sentences. A new one adds a [`Backend`] and one line at the end of this file.

#[macro_use]
mod suite;

pub(crate) mod claims;
pub(crate) mod deadlines;
pub(crate) mod delivery;
pub(crate) mod fixture;
pub(crate) mod lifecycle;
pub(crate) mod nodes;
pub(crate) mod races;
pub(crate) mod random_steps;
pub(crate) mod rate_limits;
mod reference_model;
pub(crate) mod routes;
pub(crate) mod stress;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use try_it_now::clock::Millis;
use try_it_now::store::Store;

/// A store under test: new, empty, and nobody else's.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// The present by the clock that the store goes by.
    async fn now(&self) -> Millis;

    /// Lets this much time pass for the store, exactly: hours are asked for, and to the millisecond. A store with a
    /// clock of its own needs an offset to it that tests may set.
    async fn advance(&self, by: Duration);

    /// How many route events the store keeps.
    fn stream_capacity(&self) -> usize;
}
