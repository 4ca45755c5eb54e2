//! The conformance suite of the [`Store`] trait. A new store implements [`Backend`] and adds one `store_suite!` line in
//! `tests/backends`.

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

/// A store under test: new, empty, and used by one test only.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// Returns the store.
    fn store(&self) -> Arc<dyn Store>;

    /// Returns the present time of the clock that the store uses.
    async fn now(&self) -> Millis;

    /// Advances the clock of the store by exactly this much: tests ask for hours, to the millisecond. A store with a
    /// clock of its own needs an offset that tests can set.
    async fn advance(&self, by: Duration);

    /// Returns how many route events the store keeps.
    fn stream_capacity(&self) -> usize;
}
