//! Instances that were ready and no longer pass their ready check.
//!
//! Such an instance is warming: it counts as coming, so that nothing is made in its place yet, and no claim gets it. It
//! is asked on. Once its app answers as it should, it is offered again. Otherwise it is ended, and the pool makes
//! another, but only while new instances of the template succeed and fewer than its `concurrency` are being made. So an
//! outage of what all apps depend on, such as a database, ends a few of them and not the whole pool, again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::readiness::{self, AppTarget};
use super::watched_instances::WatchedInstance;
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::pool::in_flight::InstanceLock;
use crate::pool::template_pool::TemplatePool;
use crate::store::StoreError;
use crate::telemetry::task;

/// First pause before a withdrawn instance is asked again. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Least time between the ends of two withdrawn instances of a template, in which the attempt at another one begins.
const END_INTERVAL: Duration = Duration::from_secs(1);

/// Withdraws a ready instance, and asks it on in the background. Returns whether it is no longer ready; false when
/// that is not known.
pub(super) async fn withdraw(
    supply: &Arc<Supply>,
    id: &InstanceId,
    instance: WatchedInstance,
    cause: String,
) -> bool {
    let Some(template_pool) = supply.shared.template_pools.get(id.template()) else { return true };
    // Another task makes it, ends it or has withdrawn it.
    let Some(lock) = supply.in_flight.lock(id) else { return true };
    let answer = supply.shared.store.withdraw(id).await;
    match answer {
        Ok(_) => {}
        Err(error) => {
            if lock.unlock() {
                supply.fail(id, "it died while it was being withdrawn").await;
            }
            if let StoreError::Unavailable(_) = error {
                tracing::warn!(%id, %error, cause, "failed to withdraw instance that fails its ready check");
                return false;
            }
            // A visitor has it, or it is gone.
            return true;
        }
    }
    tracing::warn!(%id, cause, "instance withdrawn, because it fails its ready check");
    let withdrawn =
        WithdrawnInstance { supply: supply.clone(), template_pool, id: id.clone(), instance, cause };
    task::spawn("pool withdrawn instance", supply.tasks.track_future(withdrawn.recover_or_end(lock)));
    true
}

struct WithdrawnInstance {
    supply: Arc<Supply>,
    template_pool: Arc<TemplatePool>,
    id: InstanceId,
    instance: WatchedInstance,
    /// Why the last check failed.
    cause: String,
}

impl WithdrawnInstance {
    async fn recover_or_end(mut self, lock: InstanceLock) {
        let supply = self.supply.clone();
        let mut pause = FIRST_PAUSE;
        let is_answering = loop {
            tokio::select! {
                biased;
                () = supply.shared.stopping.cancelled() => return,
                () = lock.died() => break false,
                () = self.template_pool.outdated(self.instance.revision) => break false,
                () = tokio::time::sleep(pause) => {}
            }
            match self.check().await {
                Ok(()) => break true,
                Err(cause) => self.cause = cause,
            }
            if supply.shared.is_draining() || self.may_end() {
                break false;
            }
            pause = (pause * 2).min(MAX_PAUSE);
        };
        let is_offered = is_answering && !supply.shared.is_draining() && self.offer().await;
        let has_died = lock.unlock();
        if is_offered && !has_died {
            self.template_pool.wait_queue.notify_ready();
        } else {
            supply.fail(&self.id, &format!("it fails its ready check: {}", self.cause)).await;
        }
    }

    async fn check(&self) -> Result<(), String> {
        let template = self.template_pool.template();
        let public_url = &self.supply.shared.public_url;
        let (host, scheme) = (public_url.instance_authority(&self.id), public_url.scheme);
        let (runtime, endpoint) = (&*self.supply.runtime, self.instance.endpoint);
        let target = AppTarget { runtime, endpoint, host: &host, scheme };
        readiness::check_once(target, &template, readiness::CHECK_TIMEOUT)
            .await
            .map_err(|failure| failure.what)
    }

    /// Returns whether the pool can make another instance now, as far as is known.
    fn may_end(&self) -> bool {
        let template_pool = &self.template_pool;
        let concurrency = template_pool.template().pool.concurrency;
        template_pool.problem().is_none()
            && template_pool.attempts() < concurrency
            && template_pool.may_replace(Instant::now(), END_INTERVAL)
    }

    /// Offers the instance again. Returns false if that failed; then it must be ended.
    async fn offer(&self) -> bool {
        match self.supply.shared.store.offer(&self.id, self.instance.endpoint).await {
            Ok(offered) => {
                tracing::info!(id = %self.id, "instance passes its ready check again");
                let interval = self.template_pool.template().recheck_interval;
                self.supply.ready_watch.add(&offered, interval);
                true
            }
            Err(error) => {
                tracing::warn!(id = %self.id, %error, "failed to offer withdrawn instance");
                false
            }
        }
    }
}
