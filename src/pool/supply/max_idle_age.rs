//! The longest age of ready instances.
//!
//! An instance that has waited for longer than its template's `max_idle_age` is replaced. One is replaced at a time, the
//! limits of the instances differ by up to a fifth, and where only the minimum is ready, another is made first.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Millis;
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::store::StoreError;
use crate::telemetry::ReleaseReason;
use crate::template::Template;

/// Least time between two replacements of one template.
const REPLACE_INTERVAL: Duration = Duration::from_secs(1);
/// How long one more instance than the target is wanted, unless that is said again.
const SURPLUS_TIME: Duration = Duration::from_secs(10);

/// Returns whether an instance that was created at `created_at` is too old to be assigned.
pub(super) fn is_over(supply: &Supply, template: &Template, id: &InstanceId, created_at: Millis) -> bool {
    let limit = template.pool.max_idle_age.map(|limit| limit_of(id, limit));
    limit.is_some_and(|limit| supply.shared.clock.now().since(created_at) >= limit)
}

/// Returns the limit of one instance: from four fifths of the template's up to all of it.
fn limit_of(id: &InstanceId, limit: Duration) -> Duration {
    let sum = id.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    limit.mul_f64(1.0 - f64::from(sum % 200) / 1000.0)
}

/// Retires an instance that is too old, if the pool keeps its minimum without it; else has one more made. Returns
/// whether the instance is no longer ready.
pub(super) async fn replace(supply: &Arc<Supply>, template: &Template, id: &InstanceId) -> bool {
    let Some(template_pool) = supply.shared.template_pools.get(id.template()) else { return true };
    if template_pool.problem().is_some() || template_pool.attempts() > 0 {
        return false;
    }
    let Ok(counts) = supply.shared.store.counts(&template.name, Some(&supply.shared.node)).await else {
        return false;
    };
    // Without a target nothing waits for visitors, so there is no minimum to keep.
    if counts.ready <= template.pool.min {
        template_pool.want_surplus(Instant::now() + SURPLUS_TIME);
        supply.shared.wake.notify_one();
        return false;
    }
    if !template_pool.may_replace(Instant::now(), REPLACE_INTERVAL) {
        return false;
    }
    match supply.shared.store.retire(id).await {
        Ok(_) => {
            tracing::debug!(%id, "instance retired, because it has waited for its longest time");
            supply.shared.metrics.record_release(id.template(), ReleaseReason::Drained);
            supply.stop_in_background(id.clone());
            template_pool.refill();
            supply.shared.wake.notify_one();
            true
        }
        Err(StoreError::Refused(_) | StoreError::Unknown) => true,
        Err(error) => {
            tracing::warn!(%id, %error, "failed to retire instance that has waited for its longest time");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::TemplateName;

    #[test]
    fn the_limits_of_instances_are_spread_below_the_limit_of_the_template() {
        let (name, hour) = (TemplateName::new("t").unwrap(), Duration::from_secs(3600));
        let limits: Vec<_> = (0..200).map(|_| limit_of(&InstanceId::random(&name), hour)).collect();
        let (first, last) = (*limits.iter().min().unwrap(), *limits.iter().max().unwrap());
        assert!(first >= hour.mul_f64(0.8) && last <= hour, "{first:?} {last:?}");
        assert!(last - first > hour.mul_f64(0.1), "{first:?} {last:?}");
    }
}
