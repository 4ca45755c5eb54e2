//! How many bytes of messages the server may hold for all clients together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that one response to a client that does not read may occupy: about ten pieces of what one read of the app's
/// answer returns, and the buffers of HTTP/2. A test measures it: `an_unread_answer_costs_less_than_half_a_mebibyte`.
pub const UNREAD_RESPONSE_BYTES: usize = 512 * 1024;

/// Counts the bytes that messages may occupy. All clones share the count.
#[derive(Debug, Clone)]
pub struct BufferBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    used: AtomicUsize,
}

/// Bytes that one message may occupy. They count until this is dropped.
#[derive(Debug)]
pub struct BufferPermit {
    budget: BufferBudget,
    bytes: usize,
}

impl BufferBudget {
    /// Allows `max` bytes.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner { max, used: AtomicUsize::new(0) }))
    }

    /// Counts `bytes` until the permit is dropped. Returns `None` if the budget has fewer left.
    pub fn try_reserve(&self, bytes: usize) -> Option<BufferPermit> {
        // Counted first: two messages for the last bytes may both be refused, and never both be let in.
        let permit = BufferPermit { budget: self.clone(), bytes };
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed);
        (used.saturating_add(bytes) <= self.0.max).then_some(permit)
    }
}

impl Drop for BufferPermit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_reserved_up_to_the_budget_and_given_back() {
        let budget = BufferBudget::new(10);
        let six = budget.try_reserve(6).unwrap();
        assert!(budget.try_reserve(5).is_none());
        let _four = budget.try_reserve(4).unwrap();
        drop(six);
        assert!(budget.try_reserve(6).is_some());
        assert!(budget.try_reserve(usize::MAX).is_none());
        assert_eq!(budget.0.used.load(Ordering::Relaxed), 4);
    }
}
