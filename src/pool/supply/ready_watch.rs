//! Asks the ready instances of this node their ready check again, and replaces those that are too old.
//!
//! An app can stop answering long after its instance was offered: its process hangs, or it has begun to answer errors.
//! So each ready instance is asked at its template's interval, spread by chance, and less often where there are very
//! many. The requests go to the app itself, so they count neither as visitors nor as activity.
//!
//! One failed check decides nothing, because a busy host may cause it. After two failures in a row, or where the app
//! refuses the connection, the instance is withdrawn ([`super::withdrawn`]): no claim gets it any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::watched_instances::WatchedInstance;
use super::{max_idle_age, readiness, withdrawn};
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::proxy::routes::RouteLookup;
use crate::telemetry::task;

/// Longest time of the first request of a check. What fails it is asked again with more time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between the two requests of a check.
const SECOND_REQUEST_PAUSE: Duration = Duration::from_secs(1);
/// Most checks at the same time.
const CONCURRENT_CHECKS: usize = 32;
/// Longest sleep of the task, which bounds how late a new instance is noticed.
const MAX_SLEEP: Duration = Duration::from_millis(500);
/// The next check of an instance that is too old and cannot be replaced yet.
const AGED_PAUSE: Duration = Duration::from_secs(1);

/// Checks ready instances until the pools shut down.
pub(in crate::pool) async fn run(supply: Arc<Supply>) {
    let permits = Arc::new(Semaphore::new(CONCURRENT_CHECKS));
    while !supply.shared.stopping.is_cancelled() {
        let now = Instant::now();
        supply.ready_watch.sort_in(now, |id| !is_routed(&supply, id));
        let Some((id, instance)) = supply.ready_watch.next_due(now) else {
            let next = supply.ready_watch.first_due().unwrap_or(now + MAX_SLEEP).min(now + MAX_SLEEP);
            supply.shared.stopping.run_until_cancelled(tokio::time::sleep_until(next)).await;
            continue;
        };
        let Some(Ok(permit)) =
            supply.shared.stopping.run_until_cancelled(permits.clone().acquire_owned()).await
        else {
            return;
        };
        let checking = supply.clone();
        task::spawn("pool ready check", async move {
            let stopping = checking.shared.stopping.clone();
            stopping.run_until_cancelled(check(&checking, &id, instance)).await;
            drop(permit);
        });
    }
}

/// Returns whether a visitor has or had an instance, as far as this node knows.
fn is_routed(supply: &Supply, id: &InstanceId) -> bool {
    matches!(supply.shared.routes.find(id.as_str()), RouteLookup::Live(_) | RouteLookup::Ended(_))
}

/// Checks one instance, and plans its next check.
pub(in crate::pool) async fn check(supply: &Arc<Supply>, id: &InstanceId, instance: WatchedInstance) {
    let template = supply.shared.template_of(id).filter(|template| template.revision == instance.revision);
    // An instance of a changed template is about to be retired. One that a visitor has is the visitor's alone.
    let Some(template) = template.filter(|_| !is_routed(supply, id)) else {
        return supply.ready_watch.remove(id);
    };
    if max_idle_age::is_over(supply, &template, id, instance.created_at) {
        match max_idle_age::replace(supply, &template, id).await {
            true => supply.ready_watch.remove(id),
            false => supply.ready_watch.plan(id, AGED_PAUSE),
        }
        return;
    }
    let public_url = &supply.shared.public_url;
    let (host, scheme) = (public_url.instance_authority(id), public_url.scheme);
    let (runtime, endpoint) = (&*supply.runtime, instance.endpoint);
    let target = readiness::AppTarget { runtime, endpoint, host: &host, scheme };
    let Err(failure) = readiness::check_once(target, &template, FIRST_TIMEOUT).await else {
        return supply.ready_watch.plan(id, template.recheck_interval);
    };
    let mut last = failure;
    if !last.is_refused {
        tracing::debug!(%id, failure = last.what, "ready check of ready instance failed; repeating it");
        tokio::time::sleep(SECOND_REQUEST_PAUSE).await;
        match readiness::check_once(target, &template, readiness::CHECK_TIMEOUT).await {
            Ok(()) => return supply.ready_watch.plan(id, template.recheck_interval),
            Err(second) => last = second,
        }
    }
    match withdrawn::withdraw(supply, id, instance, last.what).await {
        true => supply.ready_watch.remove(id),
        false => supply.ready_watch.plan(id, template.recheck_interval),
    }
}
