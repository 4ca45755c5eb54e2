//! The memory store under the suite, with a clock that the tests advance.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use try_it_now::clock::{Clock, Millis};
use try_it_now::store::Store;
use try_it_now::store::memory::{MAX_ROUTE_EVENTS, MemoryStore};

use crate::suites::store::Backend;

store_suite!(suite, || async { Some(crate::memory::backend()) }, 300);

struct MemoryBackend {
    store: Arc<MemoryStore>,
    clock: Clock,
}

pub(crate) fn backend() -> Arc<dyn Backend> {
    let clock = Clock::manual(Millis(1_700_000_000_000));
    Arc::new(MemoryBackend { store: Arc::new(MemoryStore::new(clock.clone())), clock })
}

#[async_trait]
impl Backend for MemoryBackend {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn now(&self) -> Millis {
        self.clock.now()
    }
    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
    fn stream_capacity(&self) -> usize {
        MAX_ROUTE_EVENTS
    }
}
