//! The task that applies the store's changes to the route table.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::RouteTable;
use crate::store::{Cursor, RouteChange, RouteEvents, Store, StoreError};
use crate::telemetry::{Metrics, Outcome, RouteOperation};

/// How long one call for changes may wait for the first.
const EVENTS_WAIT: Duration = Duration::from_secs(5);
/// Time from a failed call to the next.
const ERROR_BACKOFF: Duration = Duration::from_millis(200);

/// Time from a call that returned changes to the next call. At a thousand acquires a second each change would otherwise
/// arrive alone and cost the store two calls. A request for a host that is not in the table yet does not wait for it:
/// the proxy asks the store.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);

/// What [`follow`] reports.
#[derive(Debug)]
pub enum FollowEvent<'a> {
    /// A change, which the receiver applies to the table.
    Change(&'a RouteChange),
    /// After a gap in the stream, a snapshot was applied to the table. Which changes led to it is not known.
    Resynced,
}

/// Follows the store for ever: applies a snapshot, then passes each change in order to `on_event`; applies a new
/// snapshot after a gap. If the store is away, the table stays as it is.
pub async fn follow(
    table: Arc<RouteTable>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    on_event: impl Fn(FollowEvent<'_>) + Send,
) {
    let (mut cursor, mut is_first) = (None, true);
    loop {
        let result = match cursor {
            None => resync(&table, &*store, &metrics).await.map(|cursor| {
                // Before the first snapshot no change can have been missed.
                if !std::mem::take(&mut is_first) {
                    on_event(FollowEvent::Resynced);
                }
                Some(cursor)
            }),
            Some(after) => next_changes(&*store, after, &on_event).await,
        };
        match result {
            Ok(next) => cursor = next,
            Err(error) => {
                tracing::warn!(%error, "failed to follow route changes");
                tokio::time::sleep(ERROR_BACKOFF).await;
            }
        }
    }
}

/// Applies a snapshot of the store and returns its cursor.
async fn resync(table: &RouteTable, store: &dyn Store, metrics: &Metrics) -> Result<Cursor, StoreError> {
    let start = Instant::now();
    let before = table.mark();
    let result = store.routes().await;
    if let Ok((snapshot, _)) = &result {
        table.apply_snapshot(snapshot, before);
    }
    let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
    metrics.record_route_change(RouteOperation::Resync, outcome, start.elapsed());
    result.map(|(_, cursor)| cursor)
}

/// Passes the changes after a cursor to `on_event`. Returns the cursor for the next call; `None` after a gap.
async fn next_changes(
    store: &dyn Store,
    after: Cursor,
    on_event: &(impl Fn(FollowEvent<'_>) + Send),
) -> Result<Option<Cursor>, StoreError> {
    let RouteEvents::Changes(changes) = store.route_events(after, EVENTS_WAIT).await? else {
        return Ok(None);
    };
    let Some((last, _)) = changes.last() else { return Ok(Some(after)) };
    let last = *last;
    changes.iter().for_each(|(_, change)| on_event(FollowEvent::Change(change)));
    tokio::time::sleep(BATCH_INTERVAL).await;
    Ok(Some(last))
}
