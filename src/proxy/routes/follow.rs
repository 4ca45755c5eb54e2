//! Keeps the table in step with the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::RouteTable;
use super::table::Applied;
use crate::store::{Cursor, RouteChange, RouteEvents, Store, StoreError};
use crate::telemetry::{Metrics, Outcome, RouteOperation};

/// How long one question for changes may wait for an answer.
const WAIT: Duration = Duration::from_secs(5);
/// Pause after the store failed.
const PAUSE: Duration = Duration::from_millis(200);

/// From one answer with changes to the next question. At a thousand acquires a second each would else come alone, and cost
/// the store two questions. Who asks for a host that is not known yet does not wait for it: the store is asked.
const GATHER: Duration = Duration::from_millis(5);

/// What whoever follows is told.
#[derive(Debug)]
pub enum FollowEvent<'a> {
    /// A change, to be applied to the table.
    Change(&'a RouteChange),
    /// The table is as the store has it, but how it came to be so is not known.
    Missed,
}

/// Follows the store for ever: a snapshot, then every change in order, which it tells; a new snapshot after a gap.
/// While the store is away the table stays as it is.
pub async fn follow(
    table: Arc<RouteTable>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    tell: impl Fn(FollowEvent<'_>) + Send,
) {
    let (mut cursor, mut first) = (None, true);
    loop {
        let step = match cursor {
            None => resync(&table, &*store, &metrics).await.map(|cursor| {
                // Before the first there was nothing to miss.
                if !std::mem::take(&mut first) {
                    tell(FollowEvent::Missed);
                }
                Some(cursor)
            }),
            Some(after) => changes(&*store, after, &tell).await,
        };
        match step {
            Ok(next) => cursor = next,
            Err(error) => {
                tracing::warn!(%error, "routes cannot be followed; the known ones stay");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn resync(table: &RouteTable, store: &dyn Store, metrics: &Metrics) -> Result<Cursor, StoreError> {
    let start = Instant::now();
    let before = table.mark();
    let answer = store.routes().await;
    if let Ok((snapshot, _)) = &answer {
        table.replace(snapshot, before);
    }
    let outcome = if answer.is_ok() { Outcome::Success } else { Outcome::Error };
    metrics.route_changed(RouteOperation::Resync, outcome, start.elapsed());
    answer.map(|(_, cursor)| cursor)
}

/// The cursor to go on from, `None` after a gap.
async fn changes(
    store: &dyn Store,
    after: Cursor,
    tell: &(impl Fn(FollowEvent<'_>) + Send),
) -> Result<Option<Cursor>, StoreError> {
    let RouteEvents::Changes(changes) = store.route_events(after, WAIT).await? else { return Ok(None) };
    let Some((last, _)) = changes.last() else { return Ok(Some(after)) };
    let last = *last;
    changes.iter().for_each(|(_, change)| tell(FollowEvent::Change(change)));
    tokio::time::sleep(GATHER).await;
    Ok(Some(last))
}

impl RouteTable {
    /// [`RouteTable::apply`], counted. A change that the table knew already is not counted again.
    pub fn apply_measured(&self, change: &RouteChange, metrics: &Metrics) -> Applied {
        let start = Instant::now();
        let applied = self.apply(change);
        let operation = match applied {
            Applied::Added => RouteOperation::Add,
            Applied::Updated => RouteOperation::Update,
            Applied::Removed => RouteOperation::Remove,
            Applied::Nothing => return applied,
        };
        metrics.route_changed(operation, Outcome::Success, start.elapsed());
        applied
    }
}
