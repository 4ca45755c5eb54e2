//! The embedded store with a clock that is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use try_it_now::clock::{Clock, Millis};
use try_it_now::store::Store;
use try_it_now::store::memory::{MemoryStore, ROUTE_EVENTS};

use crate::suites::store::Backend;

store_suite!(suite, || async { Some(crate::memory::backend()) }, 300);

struct Memory {
    store: Arc<MemoryStore>,
    clock: Clock,
}

pub(crate) fn backend() -> Arc<dyn Backend> {
    let clock = Clock::manual(Millis(1_700_000_000_000));
    Arc::new(Memory { store: Arc::new(MemoryStore::new(clock.clone())), clock })
}

#[async_trait]
impl Backend for Memory {
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
        ROUTE_EVENTS
    }
}
