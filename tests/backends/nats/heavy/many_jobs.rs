//! A thousand jobs, of which a tenth fail, while workers are killed: each is done or parked, and nothing remains.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use try_it_now::clock::Millis;
use try_it_now::cluster::queue::{Job, Queue};
use try_it_now::telemetry::task;

use crate::nats::open;
use crate::suites::queue::{is_empty, lane, provision};
use crate::support::nats_server::NatsServer;

const JOBS: u64 = 1_000;
/// A worker is killed with each so many jobs.
const KILL_EACH: usize = 50;
const MAX_DELIVERIES: u32 = 2;

/// What the workers did, as a store would keep it: each effect counts once, however often it is repeated.
#[derive(Default)]
struct Effects {
    done: Mutex<BTreeSet<u64>>,
    taken: Mutex<usize>,
}

/// Works until the queue is empty, or until the worker is killed in the middle of a job: then it settles nothing.
async fn work(queue: Arc<dyn Queue>, effects: Arc<Effects>) -> bool {
    while let Some(taken) = queue.take(&[lane("shop")], Duration::from_millis(500)).await.unwrap() {
        let Job::Provision { slot, .. } = taken.job else { panic!("there is no other job") };
        let number = {
            let mut number = effects.taken.lock();
            *number += 1;
            *number
        };
        if slot.is_multiple_of(10) {
            match taken.deliveries >= MAX_DELIVERIES {
                true => taken.receipt.park(&format!("reason {slot}"), Millis(1)).await.unwrap(),
                false => taken.receipt.retry_later(Duration::from_millis(20)).await.unwrap(),
            }
            continue;
        }
        effects.done.lock().insert(slot);
        if number.is_multiple_of(KILL_EACH) {
            return false;
        }
        taken.receipt.done().await.unwrap();
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_thousand_jobs_is_done_or_parked_with_its_reason() {
    let Some(nats) = NatsServer::start() else { return };
    let queue = open(&nats).await;
    for chunk in (0..JOBS).collect::<Vec<_>>().chunks(50) {
        let jobs: Vec<Job> = chunk.iter().map(|slot| provision("shop", *slot)).collect();
        futures_util::future::try_join_all(jobs.iter().map(|job| queue.publish(job))).await.unwrap();
    }
    let effects = Arc::new(Effects::default());
    let workers = (0..3).map(|_| {
        let (queue, effects) = (queue.clone(), effects.clone());
        task::spawn("test", async move {
            let begun = Instant::now();
            // Another takes the place of one that was killed. An empty queue may have jobs that are delivered again.
            loop {
                let is_empty = work(queue.clone(), effects.clone()).await;
                let backlog = queue.backlog(&lane("shop")).await.unwrap();
                if is_empty && backlog.pending + backlog.in_progress == 0 {
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "{backlog:?}");
            }
        })
    });
    futures_util::future::join_all(workers).await.into_iter().for_each(Result::unwrap);
    let expected: BTreeSet<u64> = (0..JOBS).filter(|slot| !slot.is_multiple_of(10)).collect();
    assert_eq!(*effects.done.lock(), expected);
    assert!(is_empty(&queue, &[lane("shop")]).await);
    let mut reasons = BTreeMap::new();
    // A hundred are listed at a time, which is all of them.
    for parked in queue.parked().await.unwrap() {
        let Job::Provision { slot, .. } = parked.job else { panic!("there is no other job") };
        reasons.insert(slot, parked.error);
    }
    let parked =
        (0..JOBS).filter(|slot| slot.is_multiple_of(10)).map(|slot| (slot, format!("reason {slot}")));
    assert_eq!(reasons, parked.collect());
}
