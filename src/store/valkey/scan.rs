//! What is read a page at a time: a node's records, the table of routes, and the events that follow it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisResult};
use tokio::time::Instant;

use super::ValkeyStore;
use super::admission::Open;
use super::connection::unavailable;
use super::recovery::grant_log::too_late;
use super::script_reply::{Reply, broken};
use super::scripts::GatedScript;
use crate::clock::Millis;
use crate::instance::{Instance, InstanceId};
use crate::store::{Cursor, RouteChange, RouteEvents, StoreError};

/// Most events of one answer.
const BATCH: usize = 256;

/// Most idle connections kept for those who wait for events.
const IDLE: usize = 4;

impl ValkeyStore {
    /// Reads all pages of a step that has pages, `front` what stands at the front of each. Returns the records, the first
    /// page's present, and under what it was.
    pub(super) async fn pages(
        &self,
        step: &GatedScript,
        of: Option<&str>,
        mut front: impl FnMut(&mut Reply) -> Result<(), StoreError> + Send,
    ) -> Result<(HashMap<InstanceId, Instance>, Millis, Arc<Open>), StoreError> {
        let (mut found, mut first, mut place) = (HashMap::new(), None, "0".to_owned());
        let mut under: Option<Arc<Open>> = None;
        loop {
            let arguments: Vec<&str> = of.into_iter().chain([place.as_str()]).collect();
            let (mut page, open) = self.gate.run(step, &arguments).await?;
            // Of two tenures the pages do not fit together.
            if under.get_or_insert_with(|| open.clone()).tenure != open.tenure {
                return Err(too_late());
            }
            place = page.text()?;
            let now = page.millis()?;
            first.get_or_insert(now);
            front(&mut page)?;
            // One that came twice is newer the second time.
            page.records(|record| {
                found.insert(record.id().clone(), record);
            })?;
            if place == "0" {
                return Ok((found, first.unwrap_or(now), open));
            }
        }
    }

    /// The events after `cursor` that are there; `None` is a gap.
    async fn news(&self, cursor: Cursor) -> Result<Option<Vec<(Cursor, RouteChange)>>, StoreError> {
        let (cursor, most) = (cursor.0.to_string(), BATCH.to_string());
        let (mut reply, open) = self.gate.run(&self.gate.scripts.events, &[&cursor, &most]).await?;
        if reply.text()? == "gap" {
            return Ok(None);
        }
        let (events, now) = (reply.events()?, Instant::now());
        self.learn(&open, |known| {
            for (cursor, change) in &events {
                known.saw(*cursor);
                known.follow(change, now);
            }
        })?;
        Ok(Some(events))
    }

    /// Waits until there may be something after `cursor`.
    async fn wait(&self, cursor: Cursor, longest: Duration) -> Result<(), StoreError> {
        let idle = self.waiting.lock().pop();
        // Taken out while it is in use: one whose caller gave up is still waiting, and is dropped.
        let mut wire = match idle {
            Some(wire) => wire,
            None => {
                let link = &self.gate.link;
                link.in_time(link.connect(longest + self.gate.settings.deadline)).await?
            }
        };
        let millis = usize::try_from(longest.as_millis()).unwrap_or(usize::MAX).max(1);
        let options = StreamReadOptions::default().block(millis).count(1);
        let (stream, after) = ([self.key("routes")], [format!("{}-0", cursor.0)]);
        let reading = wire.xread_options(&stream, &after, &options);
        let read: RedisResult<Option<StreamReadReply>> =
            match tokio::time::timeout(longest + self.gate.settings.deadline, reading).await {
                Ok(read) => read,
                Err(_) => return Err(StoreError::Unavailable("it does not answer in time".to_owned())),
            };
        read.map_err(unavailable)?;
        let mut waiting = self.waiting.lock();
        if waiting.len() < IDLE {
            waiting.push(wire);
        }
        Ok(())
    }

    /// As the embedded store does it: pages of the table, each of its own moment, and over them every event since the
    /// first page, in order, up to the cursor that is returned.
    pub(super) async fn read_routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        loop {
            let mut cursor = None;
            let mark = self.gate.notebook.lock().known.mark();
            let (mut table, now, open) = self
                .pages(&self.gate.scripts.routes, None, |page| {
                    let events = page.number()?;
                    cursor.get_or_insert(Cursor(events));
                    Ok(())
                })
                .await?;
            let mut cursor = cursor.ok_or_else(broken)?;
            // A gap: the stream overtook the reading.
            while let Some(news) = self.news(cursor).await? {
                let at_the_end = news.len() < BATCH;
                for (at, change) in news {
                    cursor = at;
                    change.apply(&mut table);
                }
                if at_the_end {
                    let table: Vec<Instance> = table.into_values().collect();
                    self.learn(&open, |known| {
                        known.saw(cursor);
                        known.resync(&table, mark, Instant::now());
                    })?;
                    return Ok((table.into_iter().map(|record| record.seen_at(now)).collect(), cursor));
                }
            }
        }
    }

    pub(super) async fn read_route_events(
        &self,
        cursor: Cursor,
        wait: Duration,
    ) -> Result<RouteEvents, StoreError> {
        let mut news = self.news(cursor).await?;
        if news.as_ref().is_some_and(Vec::is_empty) && !wait.is_zero() {
            self.wait(cursor, wait).await?;
            news = self.news(cursor).await?;
        }
        Ok(news.map_or(RouteEvents::Gap, RouteEvents::Changes))
    }
}
