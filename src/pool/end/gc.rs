//! What runs and what is on record are brought together: after a crash, after a store that was away, and whenever
//! the templates change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::consume_budget;

use crate::instance::{Instance, InstanceId, State};
use crate::pool::Pool;
use crate::runtime::RuntimeError;
use crate::store::StoreError;
use crate::telemetry::ReleaseReason;

/// Longest time that the store may take to list all instances of this server. There may be a hundred thousand, and
/// they are read a piece at a time behind the visitors' questions.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum GcError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Compares what runs here with what is on record here, and ends what is in only one of them; retires what nobody
/// wants any more. What a task of ours has in hand is left alone. False when it could not be done.
pub(crate) async fn collect(pool: &Arc<Pool>) -> bool {
    match compare(pool).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "what runs could not be compared with what is on record");
            false
        }
    }
}

async fn compare(pool: &Arc<Pool>) -> Result<(), GcError> {
    let mut held = pool.hands.held();
    // In this order: what is ready on record was started before, and so it runs unless it is dead.
    let on_record = list(pool).await?;
    let list = pool.runtime.list().await?;
    let mut strays = HashSet::with_capacity(list.len());
    for id in list {
        yield_now().await;
        strays.insert(id);
    }
    // Held before or after: its state was in motion while we looked.
    held.extend(pool.hands.held());

    for instance in on_record.iter().filter(|instance| is_living(instance)) {
        yield_now().await;
        let id = instance.id();
        let runs = strays.remove(id);
        if held.contains(id) {
            continue;
        }
        if let State::Warming = instance.life() {
            if is_still(pool, id, |found| matches!(found.map(Instance::life), Some(State::Warming))).await? {
                pool.fail(id, "nobody makes it any more").await;
            }
        } else if !runs {
            pool.fail(id, "it no longer runs").await;
        }
    }
    for id in strays.iter().filter(|id| !held.contains(id)) {
        if is_still(pool, id, |found| !found.is_some_and(is_living)).await? {
            tracing::info!(%id, "stopping an instance that nobody may have");
            pool.take_down(id.clone());
        }
    }
    retire(pool, unwanted(pool, &on_record).await).await?;
    for instance in on_record {
        yield_now().await;
        drop(instance);
    }
    Ok(())
}

async fn list(pool: &Pool) -> Result<Vec<Instance>, StoreError> {
    pool.ask_within(LIST_DEADLINE, pool.store.list(&pool.node)).await
}

/// Lets others run now and then: visitors must not wait until a hundred thousand instances are compared.
async fn yield_now() {
    consume_budget().await;
}

fn is_living(instance: &Instance) -> bool {
    !matches!(instance.life(), State::Expired { .. })
}

/// Looks again at an instance that was made, or was about to be, while the lists were read: whether its record is
/// as it was, and nobody has it in hand, who would change that.
async fn is_still(
    pool: &Arc<Pool>,
    id: &InstanceId,
    as_it_was: impl FnOnce(Option<&Instance>) -> bool,
) -> Result<bool, StoreError> {
    let Some(hold) = pool.hands.take(id) else { return Ok(false) };
    let found = pool.ask(pool.store.get(id)).await?;
    if hold.let_go() {
        pool.fail(id, "it died while it was looked at").await;
        return Ok(false);
    }
    Ok(as_it_was(found.as_ref()))
}

/// Retires what [`Pool::reload`] made unwanted.
pub(crate) async fn retire_unwanted(pool: &Arc<Pool>) -> Result<(), StoreError> {
    let on_record = list(pool).await?;
    retire(pool, unwanted(pool, &on_record).await).await
}

async fn retire(pool: &Arc<Pool>, unwanted: Vec<&Instance>) -> Result<(), StoreError> {
    for instance in unwanted {
        let id = instance.id();
        match pool.ask(pool.store.retire(id)).await {
            Ok(before) => {
                if let State::Ready { .. } = before.life() {
                    pool.metrics.released(id.template(), ReleaseReason::Drained);
                }
                // Whoever is still making it undoes that.
                if !pool.hands.died(id) {
                    pool.take_down(id.clone());
                }
            }
            // A visitor was faster, or it is gone already.
            Err(StoreError::Refused(_) | StoreError::Unknown) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Unused instances of a template that is gone or has changed, and ready ones above the target or the capacity.
async fn unwanted<'a>(pool: &Pool, on_record: &'a [Instance]) -> Vec<&'a Instance> {
    let mut assigned: HashMap<&str, usize> = HashMap::new();
    for instance in on_record.iter().filter(|instance| matches!(instance.life(), State::Assigned { .. })) {
        yield_now().await;
        *assigned.entry(instance.id().template()).or_default() += 1;
    }
    let mut kept: HashMap<&str, usize> = HashMap::new();
    let mut is_unwanted = |instance: &Instance, name: &'a str| {
        let keeper = pool.keepers.get(name).filter(|keeper| keeper.wants(instance.revision()));
        match (instance.life(), keeper) {
            (State::Assigned { .. } | State::Expired { .. }, _) => false,
            (State::Warming | State::Ready { .. }, None) => true,
            (State::Warming, Some(_)) => false,
            (State::Ready { .. }, Some(keeper)) => {
                let (sizes, assigned) = (keeper.sizes(), assigned.get(name).copied().unwrap_or(0));
                let count = kept.entry(name).or_default();
                *count += 1;
                pool.is_draining()
                    || *count > (sizes.target + keeper.line.len()).min(sizes.max.saturating_sub(assigned))
            }
        }
    };
    let mut unwanted = Vec::new();
    for instance in on_record {
        yield_now().await;
        if is_unwanted(instance, instance.id().template()) {
            unwanted.push(instance);
        }
    }
    unwanted
}
