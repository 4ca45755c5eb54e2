//! A visitor gets an instance.

use std::time::Duration;

use tokio::time::Instant;

use super::delivery::Delivery;
use crate::instance::{ClaimToken, Instance, RateLimited};
use crate::pool::Pool;
use crate::pool::template_pool::TemplatePool;
use crate::store::{Claim, Claimed, Quota, RouteChange, StoreError, Visitor};
use crate::telemetry::AcquireResult;

/// An instance that is the visitor's from now on.
#[derive(Debug)]
pub struct Acquired {
    /// The record, assigned.
    pub instance: Instance,
    /// What is left to the visitor; `None` without limits.
    pub quota: Option<Quota>,
    /// For whoever carries the answer to the visitor.
    pub delivery: Delivery,
}

/// Why a visitor got none. Nothing was charged.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No template has that name.
    #[error("no template has that name")]
    NoTemplate,
    /// The visitor has had enough.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// Nothing is ready and nothing could be made in time.
    #[error("no instance is ready")]
    Exhausted {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Pool {
    /// Gives `visitor` a ready instance of the template called `template`. When none is ready it waits, behind
    /// those who came before, for one that can be made within the acquire timeout. Dropped before it is done, it leaves
    /// the visitor without an instance.
    pub async fn acquire(&self, template: &str, visitor: Visitor) -> Result<Acquired, AcquireError> {
        let start = Instant::now();
        let keeper =
            self.keepers.get(template).filter(|keeper| keeper.is_kept()).ok_or(AcquireError::NoTemplate)?;
        let outcome = self.claim_or_wait(&keeper, visitor, start).await;
        let result = match &outcome {
            Ok(_) => AcquireResult::Success,
            Err(AcquireError::RateLimited(_)) => AcquireResult::RateLimited,
            Err(AcquireError::Exhausted { .. }) => AcquireResult::PoolExhausted,
            Err(AcquireError::NoTemplate | AcquireError::Store(_)) => AcquireResult::Error,
        };
        self.metrics.acquired(template, result, start.elapsed());
        outcome
    }

    async fn claim_or_wait(
        &self,
        keeper: &TemplatePool,
        visitor: Visitor,
        start: Instant,
    ) -> Result<Acquired, AcquireError> {
        let template = keeper.template();
        let claim = Claim {
            template: template.name.clone(),
            token: ClaimToken::random(),
            node: self.node.clone(),
            visitor,
            limits: template.rate_limit,
            ttl: template.ttl,
        };
        let mut delivery = Delivery::of(claim, self.ledger.clone());
        if keeper.line.len() == 0
            && let Some((instance, quota)) = self.claim(&mut delivery).await?
        {
            return Ok(Acquired { instance, quota, delivery });
        }
        self.check_patience(keeper).await?;
        let deadline = start + self.acquire_timeout;
        let place = keeper.line.enter();
        // Those who make instances are woken when the visitor is counted, each time.
        let first = place.first();
        self.wake.notify_one();
        let exhausted = |_| AcquireError::Exhausted { retry_after: retry_after(keeper) };
        let first = tokio::time::timeout_at(deadline, first).await.map_err(exhausted)?;
        loop {
            // Not under the deadline: a claim that is broken off has to be undone.
            if let Some((instance, quota)) = self.claim(&mut delivery).await? {
                return Ok(Acquired { instance, quota, delivery });
            }
            let called = first.called();
            self.wake.notify_one();
            tokio::time::timeout_at(deadline, called).await.map_err(exhausted)?;
        }
    }

    /// One claim: an instance, or `None` when nothing is ready.
    async fn claim(
        &self,
        delivery: &mut Delivery,
    ) -> Result<Option<(Instance, Option<Quota>)>, AcquireError> {
        let claimed = self.ask(self.store.claim(delivery.claiming())).await?;
        match claimed {
            Claimed::Granted { instance, quota } => {
                delivery.granted(instance.id().clone());
                if self.publish(RouteChange::Set(instance.clone())) {
                    self.wake.notify_one();
                }
                Ok(Some((instance, quota)))
            }
            Claimed::RateLimited(limited) => {
                delivery.came_to_nothing();
                Err(limited.into())
            }
            Claimed::Empty => {
                delivery.came_to_nothing();
                Ok(None)
            }
        }
    }

    /// Whether waiting makes sense: something can be made, and in time for everybody who waits already.
    async fn check_patience(&self, keeper: &TemplatePool) -> Result<(), AcquireError> {
        let sizes = keeper.sizes();
        let counts = self.ask(self.store.counts(&keeper.template().name, Some(&self.node))).await?;
        let ahead = keeper.line.len();
        let full = counts.assigned + ahead >= sizes.max;
        let rounds = u32::try_from(ahead / sizes.concurrency.max(1)).unwrap_or(u32::MAX).saturating_add(1);
        // Before the first has been made nobody knows how long it takes; the wait is bounded anyway.
        let slow = keeper.median().is_some_and(|m| m.saturating_mul(rounds) > self.acquire_timeout);
        if full || slow || self.is_draining() || keeper.pause().is_some() || self.stopping.is_cancelled() {
            return Err(AcquireError::Exhausted { retry_after: retry_after(keeper) });
        }
        Ok(())
    }
}

/// When an instance may be ready: after a broken template's pause, and the time one takes.
fn retry_after(keeper: &TemplatePool) -> Duration {
    let making = keeper.median().unwrap_or(Duration::from_secs(5));
    (keeper.pause().unwrap_or_default() + making).max(Duration::from_secs(1))
}
