//! The embedded queue under the suite.

use std::sync::Arc;

use try_it_now::cluster::queue::Queue;
use try_it_now::cluster::queue::memory::MemoryQueue;

queue_suite!(suite, crate::memory_queue::open);

async fn open() -> Option<(Arc<dyn Queue>, ())> {
    Some((Arc::new(MemoryQueue::default()), ()))
}
