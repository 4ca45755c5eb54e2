//! NATS crashes, loses its disk, or has an older one; workers end in the middle of a job.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::cluster::queue::Queue;
use try_it_now::cluster::queue::jetstream::JetStreamQueue;

use super::{open, settings, wait_until_usable};
use crate::suites::queue::{LONG, is_empty, lane, next, provision};
use crate::support::nats_server::NatsServer;

/// Takes until a job comes, through failures.
async fn take_through_failures(queue: &Arc<dyn Queue>) -> try_it_now::cluster::queue::TakenJob {
    let taking = async {
        loop {
            match queue.take(&[lane("shop")], Duration::from_secs(2)).await {
                Ok(Some(taken)) => return taken,
                Ok(None) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(LONG, taking).await.expect("a job comes")
}

#[tokio::test]
async fn confirmed_jobs_survive_a_crash_of_nats_and_are_taken_by_the_same_client() {
    let Some(mut nats) = NatsServer::start() else { return };
    let queue = open(&nats).await;
    for slot in 0..20 {
        queue.publish(&provision("shop", slot)).await.unwrap();
    }
    let unsettled = next(&queue, &[lane("shop")]).await;
    next(&queue, &[lane("shop")]).await.receipt.done().await.unwrap();
    nats.kill();
    let begun = tokio::time::Instant::now();
    assert!(queue.publish(&provision("shop", 99)).await.is_err());
    assert!(queue.publish(&provision("shop", 99)).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(10), "each call ends in time: {:?}", begun.elapsed());
    nats.restart();
    wait_until_usable(&queue, true).await;
    let mut taken = BTreeSet::new();
    while taken.len() < 19 {
        let job = take_through_failures(&queue).await;
        taken.insert(job.job.id());
        job.receipt.done().await.unwrap();
    }
    assert!(taken.contains(&unsettled.job.id()), "what was not settled comes again");
    assert!(is_empty(&queue, &[lane("shop")]).await);
}

#[tokio::test]
async fn a_waiting_take_outlives_a_restart_of_nats() {
    let Some(mut nats) = NatsServer::start() else { return };
    let (queue, other) = (open(&nats).await, open(&nats).await);
    let taker = queue.clone();
    let taking =
        try_it_now::telemetry::task::spawn("test", async move { take_through_failures(&taker).await });
    for _ in 0..3 {
        nats.restart();
        wait_until_usable(&other, true).await;
    }
    while other.publish(&provision("shop", 1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    taking.await.unwrap().receipt.done().await.unwrap();
}

#[tokio::test]
async fn a_lost_disk_costs_the_jobs_and_the_queue_works_again_within_seconds() {
    let Some(mut nats) = NatsServer::start() else { return };
    let queue = open(&nats).await;
    queue.publish(&provision("shop", 1)).await.unwrap();
    let before = next(&queue, &[lane("shop")]).await;
    nats.lose_data();
    nats.restart();
    wait_until_usable(&queue, true).await;
    // The job of a stream that is gone: whatever this returns, it ends and does no harm.
    let _ = before.receipt.done().await;
    while queue.publish(&provision("shop", 2)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let taken = take_through_failures(&queue).await;
    assert_eq!(taken.job, provision("shop", 2));
    taken.receipt.done().await.unwrap();
}

#[tokio::test]
async fn an_older_disk_brings_back_jobs_that_were_done_and_parked_ones() {
    let Some(mut nats) = NatsServer::start() else { return };
    let queue = open(&nats).await;
    for slot in 0..3 {
        queue.publish(&provision("shop", slot)).await.unwrap();
    }
    next(&queue, &[lane("shop")]).await.receipt.park("no room", Millis(1)).await.unwrap();
    nats.save_backup();
    wait_until_usable(&queue, true).await;
    for _ in 0..2 {
        take_through_failures(&queue).await.receipt.done().await.unwrap();
    }
    nats.restore_backup();
    wait_until_usable(&queue, true).await;
    // The same two come again: the worker finds that they are not wanted.
    for _ in 0..2 {
        take_through_failures(&queue).await.receipt.done().await.unwrap();
    }
    assert!(is_empty(&queue, &[lane("shop")]).await);
    assert_eq!(queue.parked().await.unwrap()[0].error, "no room");
}

#[tokio::test]
async fn without_nats_the_queue_opens_and_works_once_nats_is_there() {
    let Some(mut nats) = NatsServer::start() else { return };
    nats.kill();
    let queue: Arc<dyn Queue> = JetStreamQueue::open(settings(&nats)).await.unwrap();
    assert!(queue.problem().is_some());
    assert!(queue.publish(&provision("shop", 1)).await.is_err());
    nats.restart();
    wait_until_usable(&queue, true).await;
    queue.publish(&provision("shop", 1)).await.unwrap();
}
