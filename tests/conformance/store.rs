//! Every store passes these sentences. A new one adds a [`Backend`] and one line at the end of this file.

#[macro_use]
mod sentences;

mod claims;
mod deadlines;
mod delivery;
mod embedded;
mod life;
mod limits;
mod model;
mod nodes;
mod plain;
mod races;
mod routes;
mod stage;
mod storm;
mod valkey;

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

store_conformance!(memory, || async { Some(crate::store::embedded::backend()) }, 300);
store_conformance!(valkey_single, || async { crate::store::valkey::backend() }, 40);
store_conformance!(in groups valkey_cluster, || async { crate::store::valkey::cluster_backend() }, 10);
