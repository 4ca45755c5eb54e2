//! Garbage collection: what runs and what is on record are made to agree. It runs at the start, at intervals, after an
//! outage of the store, and when instances become unwanted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::consume_budget;
use tokio::time::Instant;

use crate::instance::{Instance, InstanceId, State};
use crate::pool::Pool;
use crate::runtime::RuntimeError;
use crate::store::{StoreError, within};
use crate::telemetry::ReleaseReason;

/// Longest time that the store may take to list the records of this node. There may be a hundred thousand, which are
/// read a page at a time, behind the calls that visitors wait for.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum GcError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Compares the running instances of this node with its records, and ends each that is only in one of the two; then
/// retires unwanted instances. Locked instances are left alone. Returns whether it succeeded.
pub(in crate::pool) async fn collect(pool: &Arc<Pool>) -> bool {
    match try_collect(pool).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "failed to garbage-collect instances");
            false
        }
    }
}

async fn try_collect(pool: &Arc<Pool>) -> Result<(), GcError> {
    let mut locked = pool.in_flight.locked();
    // The records are read first: an instance that is recorded as ready was started before, so it runs unless it died.
    let records = list_records(pool).await?;
    let running = pool.runtime.list().await?;
    let mut unrecorded = HashSet::with_capacity(running.len());
    for id in running {
        yield_now().await;
        unrecorded.insert(id);
    }
    // An instance that was locked before or after the two lists were read may have changed in between.
    locked.extend(pool.in_flight.locked());

    for instance in records.iter().filter(|instance| is_living(instance)) {
        yield_now().await;
        let id = instance.id();
        let runs = unrecorded.remove(id);
        if locked.contains(id) {
            continue;
        }
        if let State::Warming = instance.state() {
            if is_still(pool, id, |found| matches!(found.map(Instance::state), Some(State::Warming))).await? {
                pool.fail(id, "its provisioning was abandoned").await;
            }
        } else if !runs {
            pool.fail(id, "it no longer runs").await;
        }
    }
    for id in unrecorded.iter().filter(|id| !locked.contains(id)) {
        if is_still(pool, id, |found| !found.is_some_and(is_living)).await? {
            tracing::info!(%id, "unrecorded instance found; stopping it");
            pool.stop_in_background(id.clone());
        }
    }
    retire_all(pool, unwanted(pool, &records).await).await?;
    pool.ready_watch.follow(&records, |id| pool.template_of(id).map(|template| template.recheck_interval));
    for record in records {
        yield_now().await;
        drop(record);
    }
    Ok(())
}

async fn list_records(pool: &Pool) -> Result<Vec<Instance>, StoreError> {
    within(LIST_DEADLINE, pool.store.list(&pool.node)).await
}

/// Lets other tasks run at times: visitors must not wait until a hundred thousand instances are compared.
async fn yield_now() {
    consume_budget().await;
}

fn is_living(instance: &Instance) -> bool {
    !matches!(instance.state(), State::Expired { .. })
}

/// Reads the record of an instance again, which may have changed while the lists were read. Returns whether no task has
/// locked the instance, which would change it, and `condition` holds for its record.
async fn is_still(
    pool: &Arc<Pool>,
    id: &InstanceId,
    condition: impl FnOnce(Option<&Instance>) -> bool,
) -> Result<bool, StoreError> {
    let Some(lock) = pool.in_flight.lock(id) else { return Ok(false) };
    let found = pool.ask(pool.store.get(id)).await?;
    if lock.unlock() {
        pool.fail(id, "it died while its record was read").await;
        return Ok(false);
    }
    Ok(condition(found.as_ref()))
}

/// Retires the instances that the configuration does not want any more.
pub(in crate::pool) async fn retire_unwanted(pool: &Arc<Pool>) -> Result<(), StoreError> {
    let records = list_records(pool).await?;
    retire_all(pool, unwanted(pool, &records).await).await
}

async fn retire_all(pool: &Arc<Pool>, unwanted: Vec<&Instance>) -> Result<(), StoreError> {
    for instance in unwanted {
        let id = instance.id();
        match pool.ask(pool.store.retire(id)).await {
            Ok(before) => {
                if let State::Ready { .. } = before.state() {
                    pool.metrics.record_release(id.template(), ReleaseReason::Drained);
                }
                // If a task is still making it, that task undoes its steps.
                if !pool.in_flight.report_death(id) {
                    pool.stop_in_background(id.clone());
                }
            }
            // A visitor was faster, or it is gone already.
            Err(StoreError::Refused(_) | StoreError::Unknown) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the instances to retire: unused ones of a removed or changed template, and ready ones above the target or
/// the capacity.
async fn unwanted<'a>(pool: &Pool, records: &'a [Instance]) -> Vec<&'a Instance> {
    let mut assigned: HashMap<&str, usize> = HashMap::new();
    for instance in records.iter().filter(|instance| matches!(instance.state(), State::Assigned { .. })) {
        yield_now().await;
        *assigned.entry(instance.id().template()).or_default() += 1;
    }
    let mut kept: HashMap<&str, usize> = HashMap::new();
    let mut is_unwanted = |instance: &Instance, name: &'a str| {
        let wanting_pool =
            pool.template_pools.get(name).filter(|template_pool| template_pool.wants(instance.revision()));
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
                pool.is_draining() || *count > wanted.min(sizes.max.saturating_sub(assigned))
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
