//! Pools that are as large as the memory of the host has room for.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Stage, template, templates};
use super::test_runtime::TestHost;
use crate::pool::supply::capacity;
use crate::store::Visitor;
use crate::template::Template;
use crate::template::{App, ResourceLimits};

const G: u64 = 1 << 30;
const M: u64 = 1 << 20;

/// A template whose pool goes by the memory, with a limit of that for each instance.
fn by_memory(target: usize, limit: u64) -> Template {
    let limits = ResourceLimits { memory: Some(limit), ..ResourceLimits::default() };
    let mut kept = template("t", 1, target, 100_000);
    kept.app = Arc::new(App { limits, ..App::clone(&kept.app) });
    kept.pool.by_memory = true;
    kept
}

impl Stage {
    /// On a host with that much memory, of which `others` is in use, and each instance takes `each`.
    fn on_host(kept: Template, others: u64, each: u64) -> Self {
        let stage = Self::with(None, kept);
        *stage.runtime.host.lock() = Some(TestHost { total: 16 * G, others, each });
        stage
    }

    fn host(&self) -> TestHost {
        self.runtime.host.lock().unwrap()
    }

    /// What could be used now.
    fn available(&self) -> u64 {
        let host = self.host();
        host.total - host.others - self.runtime.running().len() as u64 * host.each
    }

    /// Lets time go by, in which what is left alone stays so.
    async fn goes_on(&self, seconds: u64) -> usize {
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(self.available() >= capacity::reserve(16 * G), "{} left", self.available() / M);
        }
        self.capacity().await
    }

    async fn capacity(&self) -> usize {
        self.pool.stats().await.unwrap()[0].stats.capacity
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_grows_as_it_is_seen_what_instances_take_and_never_beyond_the_memory() {
    let stage = Stage::on_host(by_memory(200, G), 6 * G, 100 * M);
    stage.pool.run().await;
    // 8 GiB beside the reserve: at first each counts for its limit.
    assert_eq!(stage.capacity().await, 8);
    let grown = stage.goes_on(120).await;
    // 100 MiB each, and an eighth of what they may still take.
    assert!((30..=40).contains(&grown), "{grown}");
    assert_eq!(stage.runtime.running().len(), grown);
    let stats = stage.pool.stats().await.unwrap();
    let by_memory = stats[0].by_memory.unwrap();
    assert_eq!(by_memory.instance_bytes, 100 * M + (1024 - 100) * M / 8);
    assert_eq!(by_memory.reserve_bytes, 2 * G);
    assert_eq!(stats[0].memory.unwrap().charged_bytes, grown as u64 * 100 * M);

    // Visitors have had some, and they took no more.
    for _ in 0..6 {
        let acquired = stage.pool.acquire("t", Visitor("192.0.2.1".to_owned())).await.unwrap();
        acquired.delivery.done();
    }
    let known = stage.goes_on(120).await;
    assert!((60..=66).contains(&known), "{known} of 125 MiB in 8 GiB");
}

#[tokio::test(start_paused = true)]
async fn a_pool_shrinks_when_others_take_the_memory() {
    let stage = Stage::on_host(by_memory(30, 512 * M), 4 * G, 200 * M);
    stage.pool.run().await;
    stage.goes_on(60).await;
    assert_eq!(stage.runtime.running().len(), 30);
    let others = stage.available() - 2 * G;
    stage.runtime.host.lock().as_mut().unwrap().others += others;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let left = stage.goes_on(60).await;
    // What those may come to take that stay is theirs from now on.
    assert!((20..30).contains(&left) && stage.runtime.running().len() == left, "{left}");
    stage.runtime.host.lock().as_mut().unwrap().others -= others;
    stage.goes_on(60).await;
    assert_eq!(stage.runtime.running().len(), 30, "and is full again");
}

#[tokio::test(start_paused = true)]
async fn one_may_be_tried_whatever_its_limit_and_more_only_if_it_takes_less() {
    let stage = Stage::on_host(by_memory(3, 64 * G), 4 * G, 100 * M);
    stage.pool.run().await;
    assert_eq!(stage.capacity().await, 1);
    // An eighth of its limit is 8 GiB, so there is no room for a second as long as no visitor has had the first.
    assert_eq!(stage.goes_on(60).await, 1);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_known_of_the_memory_there_are_as_many_as_are_wanted_ready() {
    let stage = Stage::with(None, by_memory(3, G));
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((stage.capacity().await, stage.runtime.running().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_counts_at_once() {
    let stage = Stage::on_host(template("t", 1, 2, 4), 4 * G, 100 * M);
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.capacity().await, 4);
    stage.pool.reload(templates(vec![by_memory(12, G)])).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(stage.runtime.running().len(), 12);
    assert!(stage.goes_on(1).await >= 12);
}
