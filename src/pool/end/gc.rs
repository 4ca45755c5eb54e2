//! Garbage collection: what runs and what is on record are made to agree. It runs at the start, at intervals, after an
//! outage of the store, and when instances become unwanted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::task::consume_budget;
use tokio::time::Instant;

use crate::instance::{Instance, InstanceId, State};
use crate::pool::Supply;
use crate::pool::supply::cluster_plan::ClusterPool;
use crate::runtime::RuntimeError;
use crate::store::StoreError;
use crate::telemetry::ReleaseReason;

#[derive(Debug, thiserror::Error)]
enum GcError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Compares the running instances of this node with its records, and ends each that is only in one of the two; then
/// retires unwanted instances. Locked instances are left alone. Returns whether it succeeded.
pub(in crate::pool) async fn collect(supply: &Arc<Supply>) -> bool {
    match try_collect(supply).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "failed to garbage-collect instances");
            false
        }
    }
}

async fn try_collect(supply: &Arc<Supply>) -> Result<(), GcError> {
    let mut locked = supply.in_flight.locked();
    // The records are read first: an instance that is recorded as ready was started before, so it runs unless it died.
    let records = supply.shared.store.list(&supply.shared.node).await?;
    let running = supply.runtime.list().await?;
    let mut unrecorded = HashSet::with_capacity(running.len());
    for id in running {
        yield_now().await;
        unrecorded.insert(id);
    }
    // An instance that was locked before or after the two lists were read may have changed in between.
    locked.extend(supply.in_flight.locked());

    for instance in records.iter().filter(|instance| is_living(instance)) {
        yield_now().await;
        let id = instance.id();
        let runs = unrecorded.remove(id);
        if locked.contains(id) {
            continue;
        }
        if let State::Warming = instance.state() {
            let found = read_unlocked(supply, id).await?;
            if found
                .is_some_and(|found| matches!(found.record, Some(it) if matches!(it.state(), State::Warming)))
            {
                supply.fail(id, "its provisioning was abandoned").await;
            }
        } else if !runs {
            supply.fail(id, "it no longer runs").await;
        }
    }
    for id in unrecorded.iter().filter(|id| !locked.contains(id)) {
        if let Some(Unlocked { record }) = read_unlocked(supply, id).await?
            && !record.as_ref().is_some_and(is_living)
        {
            tracing::info!(%id, "unrecorded instance found; stopping it");
            supply.publish_end(id, record);
            supply.stop_in_background(id.clone());
        }
    }
    retire_all(supply, unwanted(supply, &records).await).await?;
    supply
        .ready_watch
        .follow(&records, |id| supply.shared.template_of(id).map(|template| template.recheck_interval));
    for record in records {
        yield_now().await;
        drop(record);
    }
    Ok(())
}

/// Lets other tasks run at times: visitors must not wait until a hundred thousand instances are compared.
async fn yield_now() {
    consume_budget().await;
}

/// Returns whether a record is of an instance that is to run.
pub(super) fn is_living(instance: &Instance) -> bool {
    !matches!(instance.state(), State::Expired { .. })
}

/// The record of an instance that no task had locked while it was read, if there is one.
struct Unlocked {
    record: Option<Instance>,
}

/// Reads the record of an instance again, which may have changed while the lists were read. Returns `None` when a task
/// has locked the instance, which may change it, and when the instance died meanwhile.
async fn read_unlocked(supply: &Arc<Supply>, id: &InstanceId) -> Result<Option<Unlocked>, StoreError> {
    let Some(lock) = supply.in_flight.lock(id) else { return Ok(None) };
    let record = supply.shared.store.get(id).await?;
    if lock.unlock() {
        supply.fail(id, "it died while its record was read").await;
        return Ok(None);
    }
    Ok(Some(Unlocked { record }))
}

/// Retires the instances that the configuration does not want any more.
pub(in crate::pool) async fn retire_unwanted(supply: &Arc<Supply>) -> Result<(), StoreError> {
    let records = supply.shared.store.list(&supply.shared.node).await?;
    retire_all(supply, unwanted(supply, &records).await).await
}

async fn retire_all(supply: &Arc<Supply>, unwanted: Vec<&Instance>) -> Result<(), StoreError> {
    for instance in unwanted {
        let id = instance.id();
        match supply.shared.store.retire(id).await {
            Ok(before) => {
                if let State::Ready { .. } = before.state() {
                    supply.shared.metrics.record_release(id.template(), ReleaseReason::Drained);
                }
                // If a task is still making it, that task undoes its steps.
                if !supply.in_flight.report_death(id) {
                    supply.stop_in_background(id.clone());
                }
            }
            // A visitor was faster, or it is gone already.
            Err(StoreError::Refused(_) | StoreError::Unknown) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the pools of all nodes together, where these share a queue. A template is left out while the store does not
/// answer.
async fn cluster_pools(supply: &Supply) -> HashMap<String, ClusterPool> {
    let mut pools = HashMap::new();
    for template in supply.shared.template_pools.configured().iter().filter(|_| supply.queue.is_shared()) {
        let name = template.name.as_str();
        if let Some(pool) = supply.shared.template_pools.get(name)
            && let Ok(cluster) = ClusterPool::observe(supply, &pool).await
        {
            pools.insert(name.to_owned(), cluster);
        }
    }
    pools
}

/// Returns the instances to retire: unused ones of a removed or changed template, and ready ones above the target or
/// the capacity.
async fn unwanted<'a>(supply: &Supply, records: &'a [Instance]) -> Vec<&'a Instance> {
    let (mut assigned, mut ready): (HashMap<&str, usize>, HashMap<&str, usize>) = Default::default();
    for instance in records {
        yield_now().await;
        match instance.state() {
            State::Assigned { .. } => *assigned.entry(instance.id().template()).or_default() += 1,
            State::Ready { .. } => *ready.entry(instance.id().template()).or_default() += 1,
            State::Warming | State::Expired { .. } => {}
        }
    }
    let clusters = cluster_pools(supply).await;
    let mut kept: HashMap<&str, usize> = HashMap::new();
    let mut is_unwanted = |instance: &Instance, name: &'a str| {
        let wanting_pool = supply
            .shared
            .template_pools
            .get(name)
            .filter(|template_pool| template_pool.wants(instance.revision()));
        match (instance.state(), wanting_pool) {
            (State::Assigned { .. } | State::Expired { .. }, _) => false,
            (State::Warming | State::Ready { .. }, None) => true,
            (State::Warming, Some(_)) => false,
            (State::Ready { .. }, Some(template_pool)) => {
                let (sizes, assigned) = (template_pool.sizes(), assigned.get(name).copied().unwrap_or(0));
                let count = kept.entry(name).or_default();
                *count += 1;
                let surplus = template_pool.surplus(Instant::now());
                let wanted = sizes.target + surplus + template_pool.wait_queue.len();
                let own_ready = ready.get(name).copied().unwrap_or(0);
                let wanted = match clusters.get(name) {
                    Some(cluster) => cluster.kept(own_ready, wanted),
                    // What the cluster has is not known now.
                    None if supply.queue.is_shared() => wanted.max(own_ready),
                    None => wanted,
                };
                supply.shared.is_draining() || *count > wanted.min(sizes.max.saturating_sub(assigned))
            }
        }
    };
    let mut unwanted = Vec::new();
    for instance in records {
        yield_now().await;
        if is_unwanted(instance, instance.id().template()) {
            unwanted.push(instance);
        }
    }
    unwanted
}
