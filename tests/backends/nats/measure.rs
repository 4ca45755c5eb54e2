//! What a job costs: the time to publish, take and settle one, on a real NATS: `make measure-backends`.

use std::time::Duration;

use tokio::time::Instant;

use super::open;
use crate::suites::queue::{lane, provision};
use crate::support::nats_server::NatsServer;

/// The median in the quietest of several rounds: other programs of this host slow some of them.
#[tokio::test]
async fn a_job_costs_the_queue_less_than_five_milliseconds() {
    const ROUNDS: u64 = 5;
    const JOBS: u64 = 100;
    let Some(nats) = NatsServer::start() else { return };
    let queue = open(&nats).await;
    let mut medians = Vec::new();
    for round in 0..ROUNDS {
        let mut times = Vec::new();
        for job in 0..JOBS {
            let begun = Instant::now();
            queue.publish(&provision("shop", round * JOBS + job)).await.unwrap();
            let taken = queue.take(&[lane("shop")], Duration::from_secs(5)).await.unwrap().unwrap();
            taken.receipt.done().await.unwrap();
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        medians.push(times[times.len() / 2]);
    }
    medians.sort_unstable();
    println!("publish, take, done: p50 of {ROUNDS} rounds {medians:?}");
    assert!(medians[0] < Duration::from_millis(5), "{medians:?}");
}
