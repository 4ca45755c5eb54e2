//! One query of the store for many callers who ask the same at the same time.

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A query of which one is in progress at a time.
#[derive(Debug)]
pub(super) struct SharedQuery<T> {
    /// When the latest query began, and its answer. Locked while a query is in progress.
    latest: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> SharedQuery<T> {
    /// Returns the answer of a query that began after the call: `query`, or that of a caller who waited in front of this
    /// one. So the answer is never older than the call, and many callers at a time cost no more than two queries.
    ///
    /// Cancel safety: if the future is dropped during its query, the next caller makes one.
    pub(super) async fn answer(&self, query: impl Future<Output = T>) -> T {
        let called = Instant::now();
        let mut latest = self.latest.lock().await;
        if let Some((begun, answer)) = &*latest
            && *begun > called
        {
            return answer.clone();
        }
        let begun = Instant::now();
        let answer = query.await;
        *latest = Some((begun, answer.clone()));
        answer
    }
}

impl<T> Default for SharedQuery<T> {
    fn default() -> Self {
        Self { latest: Mutex::const_new(None) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts the queries; each takes a second, and its answer is its number.
    async fn query(count: &AtomicUsize) -> usize {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
        number
    }

    #[tokio::test(start_paused = true)]
    async fn callers_during_a_query_share_the_next_one_and_none_gets_an_older_answer() {
        let (shared, count) = (SharedQuery::default(), AtomicUsize::new(0));
        let late = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            futures_util::future::join_all((0..100).map(|_| shared.answer(query(&count)))).await
        };
        let (first, late) = tokio::join!(shared.answer(query(&count)), late);
        assert_eq!((first, late), (1, vec![2; 100]));
        assert_eq!(shared.answer(query(&count)).await, 3, "a later caller gets no kept answer");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_caller_that_left_the_next_one_asks() {
        let (shared, count) = (SharedQuery::default(), AtomicUsize::new(0));
        let left = tokio::time::timeout(Duration::from_millis(500), shared.answer(query(&count))).await;
        assert!(left.is_err());
        assert_eq!(shared.answer(query(&count)).await, 2);
    }
}
