//! The visitors whom a rate limit refused, so that a visitor who repeats a refused acquire costs the store no call.
//!
//! A refusal is remembered until the limit ends, and for [`MAX_AGE`] at most. Then the store is asked once more: on
//! another node a claim of the visitor may have been undone, which gives the charge back, and no event reports that to
//! this node.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::instance::{RateLimited, RateLimits, ReachedLimit, TemplateName};
use crate::store::Visitor;

/// How long a refusal is repeated without the store.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Maximum number of refusals on record. Each costs about 200 bytes; beyond it, the one that ends first is forgotten.
const MAX_REFUSALS: usize = 10_000;

/// The refused visitors of all templates.
#[derive(Debug, Default)]
pub(in crate::pool) struct RefusedVisitors(Mutex<Refusals>);

/// One visitor of one template.
type Key = (TemplateName, Visitor);

#[derive(Debug, Default)]
struct Refusals {
    by_visitor: HashMap<Key, Refusal>,
    /// The visitors in the order in which their refusals are forgotten.
    by_end: BTreeMap<EndOrder, Key>,
    next_number: u64,
    /// Number of calls of [`RefusedVisitors::forget`].
    forgotten: u64,
}

#[derive(Debug)]
struct Refusal {
    limits: RateLimits,
    /// When the visitor may have one more instance.
    limit_ends: Instant,
    order: EndOrder,
}

/// When a refusal is forgotten, and a number that no other refusal has.
type EndOrder = (Instant, u64);

/// A moment before a claim; see [`RefusedVisitors::mark`].
#[derive(Debug, Clone, Copy)]
pub(super) struct RefusalMark(u64);

impl RefusedVisitors {
    /// Returns the refusal of a visitor who acquires an instance under these limits, with the time that remains; `None`
    /// when the store must be asked. A refusal under other limits, before a reload, does not count.
    pub(super) fn find(
        &self,
        template: &TemplateName,
        visitor: &Visitor,
        limits: RateLimits,
        now: Instant,
    ) -> Option<RateLimited> {
        if limits.is_unlimited() {
            return None;
        }
        let key = (template.clone(), visitor.clone());
        let mut refusals = self.0.lock();
        let refusal = refusals.by_visitor.get(&key)?;
        if refusal.limits != limits || refusal.order.0 <= now {
            refusals.remove(&key);
            return None;
        }
        Some(RateLimited { limits, reached: ReachedLimit::Window, retry_after: refusal.limit_ends - now })
    }

    /// Returns a mark of the present moment, to be taken before the store is asked for a claim.
    pub(super) fn mark(&self) -> RefusalMark {
        RefusalMark(self.0.lock().forgotten)
    }

    /// Remembers that the store refused a visitor. Does nothing if a refusal was forgotten since the claim began: the
    /// store may have given a charge of this very visitor back after it refused.
    pub(super) fn remember(
        &self,
        template: &TemplateName,
        visitor: &Visitor,
        refused: &RateLimited,
        mark: RefusalMark,
        now: Instant,
    ) {
        let mut refusals = self.0.lock();
        if !refused.is_until_time() || refusals.forgotten != mark.0 {
            return;
        }
        let key = (template.clone(), visitor.clone());
        refusals.remove(&key);
        if refusals.by_visitor.len() >= MAX_REFUSALS
            && let Some((_, first)) = refusals.by_end.pop_first()
        {
            refusals.by_visitor.remove(&first);
        }
        let order = (now + refused.retry_after.min(MAX_AGE), refusals.next_number);
        refusals.next_number += 1;
        refusals.by_end.insert(order, key.clone());
        let refusal = Refusal { limits: refused.limits, limit_ends: now + refused.retry_after, order };
        refusals.by_visitor.insert(key, refusal);
    }

    /// Forgets the refusal of a visitor to whom the store gave a charge back.
    pub(super) fn forget(&self, template: &TemplateName, visitor: &Visitor) {
        let mut refusals = self.0.lock();
        refusals.forgotten += 1;
        refusals.remove(&(template.clone(), visitor.clone()));
    }
}

impl Refusals {
    fn remove(&mut self, key: &Key) {
        if let Some(refusal) = self.by_visitor.remove(key) {
            self.by_end.remove(&refusal.order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RateLimits = RateLimits { hourly: 2, daily: 5, concurrent: 0 };
    const HOUR: Duration = Duration::from_secs(3600);

    fn template() -> TemplateName {
        TemplateName::new("t").unwrap()
    }
    fn visitor(n: usize) -> Visitor {
        Visitor::new(n.to_string())
    }
    fn remember(refused: &RefusedVisitors, n: usize, retry_after: Duration) {
        let refusal = RateLimited { limits: LIMITS, reached: ReachedLimit::Window, retry_after };
        refused.remember(&template(), &visitor(n), &refusal, refused.mark(), Instant::now());
    }
    fn find(refused: &RefusedVisitors, n: usize) -> Option<Duration> {
        refused.find(&template(), &visitor(n), LIMITS, Instant::now()).map(|refusal| refusal.retry_after)
    }
    fn assert_size(refused: &RefusedVisitors, size: usize) {
        let refusals = refused.0.lock();
        assert_eq!((refusals.by_visitor.len(), refusals.by_end.len()), (size, size));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_retry_counts_down_and_the_store_is_asked_again_after_a_minute() {
        let refused = RefusedVisitors::default();
        assert_eq!(find(&refused, 1), None);
        remember(&refused, 1, HOUR);
        assert_eq!((find(&refused, 1), find(&refused, 2)), (Some(HOUR), None));
        tokio::time::advance(MAX_AGE - Duration::from_secs(1)).await;
        assert_eq!(find(&refused, 1), Some(HOUR - MAX_AGE + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(find(&refused, 1), None);
        assert_size(&refused, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_with_its_limit() {
        let refused = RefusedVisitors::default();
        remember(&refused, 1, Duration::from_secs(3));
        tokio::time::advance(Duration::from_millis(2999)).await;
        assert_eq!(find(&refused, 1), Some(Duration::from_millis(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(find(&refused, 1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_counts_for_its_template_and_its_limits_only() {
        let refused = RefusedVisitors::default();
        remember(&refused, 1, HOUR);
        let now = Instant::now();
        let other = TemplateName::new("other").unwrap();
        assert_eq!(refused.find(&other, &visitor(1), LIMITS, now), None);
        assert!(find(&refused, 1).is_some());
        let more = RateLimits { hourly: 3, ..LIMITS };
        assert_eq!(refused.find(&template(), &visitor(1), more, now), None);
        assert_size(&refused, 0);
        remember(&refused, 1, HOUR);
        let none = RateLimits::NONE;
        assert_eq!(refused.find(&template(), &visitor(1), none, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_who_got_a_charge_back_is_not_refused_from_memory() {
        let refused = RefusedVisitors::default();
        remember(&refused, 1, HOUR);
        remember(&refused, 2, HOUR);
        refused.forget(&template(), &visitor(1));
        assert_eq!((find(&refused, 1), find(&refused, 2)), (None, Some(HOUR)));
        // The store refused before it gave the charge back, and its answer arrives after that.
        let mark = refused.mark();
        refused.forget(&template(), &visitor(3));
        let late = RateLimited { limits: LIMITS, reached: ReachedLimit::Window, retry_after: HOUR };
        refused.remember(&template(), &visitor(3), &late, mark, Instant::now());
        assert_eq!(find(&refused, 3), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_visitors_fill_no_memory_and_the_first_to_end_is_forgotten() {
        let refused = RefusedVisitors::default();
        remember(&refused, 0, HOUR);
        remember(&refused, 1, Duration::from_secs(5));
        for n in 2..MAX_REFUSALS {
            remember(&refused, n, HOUR);
        }
        assert_size(&refused, MAX_REFUSALS);
        remember(&refused, MAX_REFUSALS, HOUR);
        assert_size(&refused, MAX_REFUSALS);
        assert_eq!((find(&refused, 0), find(&refused, 1)), (Some(HOUR), None));
        for n in 0..1000 {
            remember(&refused, n % 7, HOUR);
        }
        assert_size(&refused, MAX_REFUSALS);
    }
}
