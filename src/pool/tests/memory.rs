//! Pools whose capacity is limited by the memory of the host.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Fixture, template, templates};
use super::test_runtime::TestHost;
use crate::runtime::HostMemory;
use crate::store::Visitor;
use crate::template::{App, ResourceLimits, Template};

const G: u64 = 1 << 30;
const M: u64 = 1 << 20;

/// Returns a template whose pool is limited by the memory, with `limit` bytes for each instance.
fn by_memory(target: usize, limit: u64) -> Template {
    let limits = ResourceLimits { memory: Some(limit), ..ResourceLimits::default() };
    let mut kept = template("t", 1, target, 100_000);
    kept.app = Arc::new(App { limits, ..App::clone(&kept.app) });
    kept.pool.limited_by_memory = true;
    kept
}

impl Fixture {
    /// Creates a fixture on a host with 16 GiB of memory, of which other processes use `others` and each instance takes
    /// `each`.
    fn on_host(kept: Template, others: u64, each: u64) -> Self {
        let fixture = Self::with(None, kept);
        *fixture.runtime.host.lock() = Some(TestHost { total: 16 * G, others, each });
        fixture
    }

    fn host(&self) -> TestHost {
        self.runtime.host.lock().unwrap()
    }

    /// Returns the memory that is available now.
    fn available(&self) -> u64 {
        let host = self.host();
        host.total - host.others - self.runtime.running().len() as u64 * host.each
    }

    /// Lets time pass, in which the reserve must stay free. Returns the capacity at the end.
    async fn run_for(&self, seconds: u64) -> usize {
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(
                self.available() >= HostMemory { total: 16 * G, available: 0 }.reserve(),
                "{} available",
                self.available() / M
            );
        }
        self.capacity().await
    }

    async fn capacity(&self) -> usize {
        self.pool.statistics.of_templates().await.unwrap()[0].stats.capacity
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_grows_as_the_memory_of_its_instances_is_observed_and_never_beyond_the_host() {
    let fixture = Fixture::on_host(by_memory(200, G), 6 * G, 100 * M);
    fixture.pool.run().await;
    // 8 GiB beside the reserve: at first each instance counts for its limit.
    assert_eq!(fixture.capacity().await, 8);
    let grown = fixture.run_for(120).await;
    // 100 MiB each, and an eighth of the distance to the limit.
    assert!((30..=40).contains(&grown), "{grown}");
    assert_eq!(fixture.runtime.running().len(), grown);
    let stats = fixture.pool.statistics.of_templates().await.unwrap();
    let by_memory = stats[0].by_memory.unwrap();
    assert_eq!(by_memory.instance_bytes, 100 * M + (1024 - 100) * M / 8);
    assert_eq!(by_memory.reserve_bytes, 2 * G);
    assert_eq!(stats[0].memory.unwrap().charged_bytes, grown as u64 * 100 * M);

    // Visitors have had some instances, which took no more.
    for _ in 0..6 {
        let acquired = fixture.pool.claims.acquire("t", Visitor::new("192.0.2.1")).await.unwrap();
        acquired.delivery.complete();
    }
    let known = fixture.run_for(120).await;
    assert!((60..=66).contains(&known), "{known} of 125 MiB in 8 GiB");
}

#[tokio::test(start_paused = true)]
async fn a_pool_shrinks_when_other_processes_take_the_memory() {
    let fixture = Fixture::on_host(by_memory(30, 512 * M), 4 * G, 200 * M);
    fixture.pool.run().await;
    fixture.run_for(60).await;
    assert_eq!(fixture.runtime.running().len(), 30);
    let others = fixture.available() - 2 * G;
    fixture.runtime.host.lock().as_mut().unwrap().others += others;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let left = fixture.run_for(60).await;
    // The remaining instances may grow into the memory that became free.
    assert!((20..30).contains(&left) && fixture.runtime.running().len() == left, "{left}");
    fixture.runtime.host.lock().as_mut().unwrap().others -= others;
    fixture.run_for(60).await;
    assert_eq!(fixture.runtime.running().len(), 30, "the pool is full again");
}

#[tokio::test(start_paused = true)]
async fn one_instance_is_made_whatever_its_limit_and_a_second_only_if_the_first_takes_less() {
    let fixture = Fixture::on_host(by_memory(3, 64 * G), 4 * G, 100 * M);
    fixture.pool.run().await;
    assert_eq!(fixture.capacity().await, 1);
    // An eighth of its limit is 8 GiB, so there is no room for a second while no visitor has had the first.
    assert_eq!(fixture.run_for(60).await, 1);
}

#[tokio::test(start_paused = true)]
async fn where_the_memory_cannot_be_measured_the_capacity_is_the_target() {
    let fixture = Fixture::with(None, by_memory(3, G));
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((fixture.capacity().await, fixture.runtime.running().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_takes_effect_at_once() {
    let fixture = Fixture::on_host(template("t", 1, 2, 4), 4 * G, 100 * M);
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.capacity().await, 4);
    fixture.pool.reload(templates(vec![by_memory(12, G)])).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(fixture.runtime.running().len(), 12);
    assert!(fixture.run_for(1).await >= 12);
}
