//! How much all clients together may use at a time: requests in flight, or bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that one response to a client that does not read may occupy: about ten pieces of what one read of the app's
/// answer returns, and the buffers of HTTP/2. A test measures it: `an_unread_answer_costs_less_than_half_a_mebibyte`.
pub const UNREAD_RESPONSE_BYTES: usize = 512 * 1024;

/// Counts what is in use. What is counted, requests or bytes, the owner decides. All clones share the count.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    used: AtomicUsize,
}

/// What one request uses. It counts until this is dropped.
#[derive(Debug)]
pub struct BudgetPermit {
    budget: Budget,
    amount: usize,
}

impl Budget {
    /// Allows `max` at a time.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner { max, used: AtomicUsize::new(0) }))
    }

    /// Counts `amount` until the permit is dropped. Returns `None` if the budget has less left.
    pub fn try_reserve(&self, amount: usize) -> Option<BudgetPermit> {
        // Counted first: of two requests for the rest both may be refused, and never are both let in.
        let permit = BudgetPermit { budget: self.clone(), amount };
        let used = self.0.used.fetch_add(amount, Ordering::Relaxed);
        (used.saturating_add(amount) <= self.0.max).then_some(permit)
    }
}

impl Drop for BudgetPermit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_reserved_to_its_end_and_given_back() {
        let budget = Budget::new(10);
        let six = budget.try_reserve(6).unwrap();
        assert!(budget.try_reserve(5).is_none());
        let _four = budget.try_reserve(4).unwrap();
        drop(six);
        assert!(budget.try_reserve(6).is_some());
        assert!(budget.try_reserve(usize::MAX).is_none());
        assert_eq!(budget.0.used.load(Ordering::Relaxed), 4);
    }
}
