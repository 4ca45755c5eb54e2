//! The methods of [`ValkeyStore`] that read in pages: a node's records, the routes, and the route events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisResult};
use tokio::time::Instant;

use super::admission::OpenTerm;
use super::connection::answer_timed_out;
use super::damage::malformed;
use super::error_text::unavailable;
use super::recovery::answer_too_late;
use super::script_reply::ScriptReply;
use super::scripts::Step;
use super::store::ValkeyStore;
use crate::clock::Millis;
use crate::instance::{Instance, InstanceId};
use crate::store::{Cursor, RouteChange, RouteEvents, StoreError};

/// Most route events in one answer.
const EVENTS_PER_ANSWER: usize = 256;

/// Most idle connections kept for calls that wait for route events.
const MAX_IDLE_TRANSPORTS: usize = 4;

impl ValkeyStore {
    /// Reads all pages of a step. `of` is an argument before the place, `read_front` reads the words before the records
    /// of each page. Returns the records, the time of the first page, and the term.
    ///
    /// # Errors
    /// The call failed, or another term began between two pages, which then do not belong together.
    pub(super) async fn read_pages(
        &self,
        step: &Step,
        of: Option<&str>,
        mut read_front: impl FnMut(&mut ScriptReply) -> Result<(), StoreError> + Send,
    ) -> Result<(HashMap<InstanceId, Instance>, Millis, Arc<OpenTerm>), StoreError> {
        let (mut found, mut first_time, mut place) = (HashMap::new(), None, "0".to_owned());
        let mut first_term: Option<Arc<OpenTerm>> = None;
        loop {
            let arguments: Vec<&str> = of.into_iter().chain([place.as_str()]).collect();
            let (mut page, term) = self.run(step, &arguments).await?;
            if first_term.get_or_insert_with(|| term.clone()).name != term.name {
                return Err(answer_too_late());
            }
            place = page.text()?;
            let now = page.millis()?;
            first_time.get_or_insert(now);
            read_front(&mut page)?;
            // A scan may return a record twice; the later one is newer.
            page.records(|record| {
                found.insert(record.id().clone(), record);
            })?;
            if place == "0" {
                return Ok((found, first_time.unwrap_or(now), term));
            }
        }
    }

    /// Reads the route events after `cursor`, without waiting; `None` is a gap.
    async fn events_after(&self, cursor: Cursor) -> Result<Option<Vec<(Cursor, RouteChange)>>, StoreError> {
        let from = cursor;
        let (cursor, most) = (cursor.0.to_string(), EVENTS_PER_ANSWER.to_string());
        let (mut reply, term) = self.run(&self.admission.scripts.route_events, &[&cursor, &most]).await?;
        if reply.text()? == "gap" {
            return Ok(None);
        }
        let (events, now) = (reply.events()?, Instant::now());
        self.note(&term, |view| {
            for (cursor, change) in &events {
                view.advance_cursor(*cursor);
                view.merge_change(change, now);
            }
            view.follow(from, events.last().map_or(from, |(last, _)| *last));
        })?;
        Ok(Some(events))
    }

    /// Waits until there may be a route event after `cursor`, at most `longest`.
    async fn wait_for_event(&self, cursor: Cursor, longest: Duration) -> Result<(), StoreError> {
        let answer_timeout = longest + self.admission.settings.call_timeout;
        // An idle connection is removed while it is used: if the caller drops this future, the connection still waits
        // for its answer and must not be used again, and is dropped too.
        let idle = self.idle_transports.lock().pop();
        let mut transport = match idle {
            Some(transport) => transport,
            None => self.admission.connection.connect(answer_timeout).await?,
        };
        let millis = usize::try_from(longest.as_millis()).unwrap_or(usize::MAX).max(1);
        let options = StreamReadOptions::default().block(millis).count(1);
        let (stream, after) = ([self.key("routes")], [format!("{}-0", cursor.0)]);
        let reading = transport.xread_options(&stream, &after, &options);
        let read: RedisResult<Option<StreamReadReply>> =
            tokio::time::timeout(answer_timeout, reading).await.map_err(|_| answer_timed_out())?;
        read.map_err(unavailable)?;
        let mut idle = self.idle_transports.lock();
        if idle.len() < MAX_IDLE_TRANSPORTS {
            idle.push(transport);
        }
        Ok(())
    }

    /// Reads a snapshot of the routes, as the embedded store does: pages of the table, each from its own moment, and
    /// over them every event since the first page, in order, up to the returned cursor.
    pub(super) async fn read_routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        loop {
            let mut cursor = None;
            let version = self.admission.grant_log.lock().view.version();
            let (mut table, now, term) = self
                .read_pages(&self.admission.scripts.routes, None, |page| {
                    let events = page.number()?;
                    cursor.get_or_insert(Cursor(events));
                    Ok(())
                })
                .await?;
            let mut cursor = cursor.ok_or_else(malformed)?;
            // On a gap the stream has dropped events that are still needed, and the read begins anew.
            while let Some(events) = self.events_after(cursor).await? {
                let is_last_answer = events.len() < EVENTS_PER_ANSWER;
                for (at, change) in events {
                    cursor = at;
                    change.apply(&mut table);
                }
                if is_last_answer {
                    let routes: Vec<Instance> = table.into_values().collect();
                    // What a damaged index lacks is not gone.
                    if let Some(flaw) = self.admission.find_flaw(&term).await? {
                        return Err(self.admission.damage.refuse(&flaw));
                    }
                    self.note(&term, |view| {
                        view.advance_cursor(cursor);
                        view.follow_snapshot(cursor);
                        view.merge_snapshot(&routes, version, Instant::now());
                    })?;
                    return Ok((routes.into_iter().map(|record| record.seen_at(now)).collect(), cursor));
                }
            }
        }
    }

    /// Reads the route events after `cursor`, and waits up to `wait` for the first.
    pub(super) async fn read_route_events(
        &self,
        cursor: Cursor,
        wait: Duration,
    ) -> Result<RouteEvents, StoreError> {
        let mut events = self.events_after(cursor).await?;
        if events.as_ref().is_some_and(Vec::is_empty) && !wait.is_zero() {
            self.wait_for_event(cursor, wait).await?;
            events = self.events_after(cursor).await?;
        }
        Ok(events.map_or(RouteEvents::Gap, RouteEvents::Changes))
    }
}
