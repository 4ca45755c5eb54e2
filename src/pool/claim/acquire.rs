//! The acquire operation: a visitor gets an instance, or waits for one.

use std::time::Duration;

use tokio::time::Instant;

use super::delivery::Delivery;
use crate::instance::{ClaimToken, Instance, RateLimited};
use crate::pool::Claims;
use crate::pool::template_pool::TemplatePool;
use crate::store::{Claim, Claimed, Quota, RouteChange, StoreError, Visitor};
use crate::telemetry::AcquireResult;

/// Assumed time to make an instance, for `retry_after`, before the first has been made.
const ASSUMED_PROVISION_TIME: Duration = Duration::from_secs(5);

/// An instance that was assigned to the visitor.
#[derive(Debug)]
pub struct Acquired {
    /// The instance's record: assigned.
    pub instance: Instance,
    /// What remains of the visitor's rate limits; `None` without limits.
    pub quota: Option<Quota>,
    /// Must accompany the answer to the visitor.
    pub delivery: Delivery,
}

/// Why the visitor got no instance. The rate limits were not charged.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No template of that name is configured.
    #[error("no template has that name")]
    NoTemplate,
    /// The visitor's rate limit is exhausted.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// No instance is ready, and none could be made in time.
    #[error("no instance is ready")]
    Exhausted {
        /// Time after which another attempt may succeed.
        retry_after: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Claims {
    /// Assigns a ready instance of the template called `template` to `visitor`. When none is ready, waits up to the
    /// acquire timeout for one to be made, behind the visitors who came before.
    ///
    /// A claim makes one call to the store, and waits neither for the runtime nor for any other node. A visitor whom a
    /// rate limit refused a moment ago is refused without a call.
    ///
    /// Cancel safety: if the future is dropped, the visitor has no instance; a claim in progress is undone.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, template: &str, visitor: Visitor) -> Result<Acquired, AcquireError> {
        self.acquire_up_to(None, template, visitor).await
    }

    /// Does what [`Claims::acquire`] does, up to `hourly` instances of the visitor in an hour, if that is fewer than the
    /// template allows.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire_up_to(
        &self,
        hourly: Option<u32>,
        template: &str,
        visitor: Visitor,
    ) -> Result<Acquired, AcquireError> {
        let start = Instant::now();
        let template_pool = self
            .shared
            .template_pools
            .get(template)
            .filter(|template_pool| template_pool.is_configured())
            .ok_or(AcquireError::NoTemplate)?;
        let outcome = self.claim_or_wait(&template_pool, hourly, visitor, start).await;
        let result = match &outcome {
            Ok(_) => AcquireResult::Success,
            Err(AcquireError::RateLimited(_)) => AcquireResult::RateLimited,
            Err(AcquireError::Exhausted { .. }) => AcquireResult::PoolExhausted,
            Err(AcquireError::NoTemplate | AcquireError::Store(_)) => AcquireResult::Error,
        };
        self.shared.metrics.record_acquire(template, result, start.elapsed());
        outcome
    }

    async fn claim_or_wait(
        &self,
        template_pool: &TemplatePool,
        hourly: Option<u32>,
        visitor: Visitor,
        start: Instant,
    ) -> Result<Acquired, AcquireError> {
        let template = template_pool.template();
        let limits = template.rate_limit.up_to(hourly);
        let refused = self.refused_visitors.find(&template.name, &visitor, limits, Instant::now());
        if let Some(refused) = refused {
            return Err(refused.into());
        }
        let claim = Claim {
            template: template.name.clone(),
            token: ClaimToken::random(),
            node: self.shared.node.clone(),
            visitor,
            limits,
            ttl: template.ttl,
        };
        let mut delivery = Delivery::new(claim, self.ledger.clone());
        if template_pool.wait_queue.len() == 0
            && let Some((instance, quota)) = self.claim(&mut delivery).await?
        {
            return Ok(Acquired { instance, quota, delivery });
        }
        self.check_wait(template_pool).await?;
        let deadline = start + self.acquire_timeout;
        let place = template_pool.wait_queue.enter();
        // The reconcile loop is woken after the visitor is counted as waiting, here and below.
        let first = place.first();
        self.shared.wake.notify_one();
        let exhausted = |_| AcquireError::Exhausted { retry_after: retry_after(template_pool) };
        let first = tokio::time::timeout_at(deadline, first).await.map_err(exhausted)?;
        loop {
            // Not bounded by the deadline: a claim that is abandoned has to be undone.
            if let Some((instance, quota)) = self.claim(&mut delivery).await? {
                return Ok(Acquired { instance, quota, delivery });
            }
            let instance_ready = first.instance_ready();
            self.shared.wake.notify_one();
            tokio::time::timeout_at(deadline, instance_ready).await.map_err(exhausted)?;
        }
    }

    /// Makes one claim. Returns `None` when no instance is ready.
    async fn claim(
        &self,
        delivery: &mut Delivery,
    ) -> Result<Option<(Instance, Option<Quota>)>, AcquireError> {
        let mark = self.refused_visitors.mark();
        let claimed = self.shared.store.claim(delivery.begin_claim()).await?;
        match claimed {
            Claimed::Granted { instance, quota } => {
                delivery.mark_granted(instance.id().clone());
                if self.shared.publish_route(RouteChange::Set(instance.clone())) {
                    self.shared.wake.notify_one();
                }
                Ok(Some((instance, quota)))
            }
            Claimed::RateLimited(limited) => {
                delivery.claim_got_nothing();
                let Claim { template, visitor, .. } = delivery.claim();
                self.refused_visitors.remember(template, visitor, &limited, mark, Instant::now());
                Err(limited.into())
            }
            Claimed::Empty => {
                delivery.claim_got_nothing();
                Ok(None)
            }
        }
    }

    /// Checks that waiting makes sense: an instance can be made, and in time for all visitors who wait already.
    async fn check_wait(&self, template_pool: &TemplatePool) -> Result<(), AcquireError> {
        let sizes = template_pool.sizes();
        let counts =
            self.shared.store.counts(&template_pool.template().name, Some(&self.shared.node)).await?;
        let ahead = template_pool.wait_queue.len();
        let is_full = counts.assigned + ahead >= sizes.max;
        let rounds = u32::try_from(ahead / sizes.concurrency.max(1)).unwrap_or(u32::MAX).saturating_add(1);
        // Before the first instance the time is not known; the wait is bounded in any case.
        let is_slow = template_pool
            .median_time()
            .is_some_and(|time| time.saturating_mul(rounds) > self.acquire_timeout);
        let is_pausing = template_pool.pause().is_some();
        if is_full
            || is_slow
            || self.shared.is_draining()
            || is_pausing
            || self.shared.stopping.is_cancelled()
        {
            return Err(AcquireError::Exhausted { retry_after: retry_after(template_pool) });
        }
        Ok(())
    }
}

/// Returns the time until an instance may be ready: the back-off of a failing template, and the time to make one.
fn retry_after(template_pool: &TemplatePool) -> Duration {
    let provision_time = template_pool.median_time().unwrap_or(ASSUMED_PROVISION_TIME);
    (template_pool.pause().unwrap_or_default() + provision_time).max(Duration::from_secs(1))
}
