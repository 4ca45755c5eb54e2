//! The queue on JetStream under the suite, on real servers of NATS, and what only this queue promises.

mod faults;
mod heavy {
    mod many_jobs;
}
#[cfg(feature = "measurements")]
mod measure;
mod refusals;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use try_it_now::cluster::queue::Queue;
use try_it_now::cluster::queue::jetstream::{JetStreamQueue, Settings};

use crate::support::nats_server::NatsServer;

queue_suite!(suite, || async {
    let nats = crate::support::nats_server::NatsServer::start()?;
    let queue = crate::nats::open(&nats).await;
    Some((queue, nats))
});

pub(crate) fn settings(nats: &NatsServer) -> Settings {
    Settings {
        servers: vec![nats.url()],
        credentials: None,
        stream: "WORK".to_owned(),
        ack_wait: Duration::from_secs(2),
    }
}

pub(crate) async fn open(nats: &NatsServer) -> Arc<dyn Queue> {
    let queue = JetStreamQueue::open(settings(nats)).await.unwrap();
    assert_eq!(queue.problem(), None);
    queue
}

/// Waits until a queue has a problem, or none.
pub(crate) async fn wait_until_usable(queue: &Arc<dyn Queue>, is_usable: bool) {
    let begun = Instant::now();
    while queue.problem().is_none() != is_usable {
        assert!(begun.elapsed() < Duration::from_secs(20), "timed out: {:?}", queue.problem());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
