//! The store that many servers share: Valkey 8 or newer, or Redis 7.
//!
//! Every transition is one call of a script (`scripts/`), which Valkey runs alone, by its own clock: all of it
//! happens or none, whoever else calls. The rules are those of [`crate::instance`], and the same conformance suite
//! holds them together.
//!
//! All keys share one hash tag. On a cluster they lie on one server, and in return the route events of all templates
//! have one order, a sweep looks at all templates at once, and a snapshot is exact. One Valkey runs tens of thousands
//! of claims a second; a second one would not make any of them faster.

mod link;
mod record;
mod reply;
mod scripts;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, Cmd, RedisResult, Script};

use self::link::{Call, Link, Wire, unavailable};
use self::reply::{Reply, broken};
use self::scripts::Scripts;
use super::{Claim, Claimed, Counts, Cursor, RouteChange, RouteEvents, Store, StoreError};
use crate::clock::{Clock, Millis};
use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, NodeId, TemplateName};

/// Longest time of one call, unless [`Settings`] say otherwise.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// Route events kept for followers that lag behind, unless [`Settings`] say otherwise.
pub const ROUTE_EVENTS: usize = 65_536;

/// Most records done something with in one call: Valkey serves nobody else meanwhile.
const PIECE: usize = 128;

/// Most events of one answer.
const BATCH: usize = 256;

/// Most idle connections kept for those who wait for events.
const IDLE: usize = 4;

/// Longest time in milliseconds that means anything; beyond it a script's numbers are not exact.
const LONGEST: u128 = 1 << 50;

/// How to find a Valkey, and what is ours in it.
#[derive(Clone)]
pub struct Settings {
    /// Of the one server, or of some of the Sentinels or of the cluster's servers.
    pub addresses: Vec<Address>,
    /// What is at those addresses.
    pub mode: Mode,
    /// Who we are there; `None` is the default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database; 0 on a cluster.
    pub db: i64,
    /// Whether to speak TLS, with the certificates that this system trusts.
    pub tls: bool,
    /// What all keys begin with: a hash tag, so that they lie together.
    pub prefix: String,
    /// Longest time of one call, a new connection included.
    pub deadline: Duration,
    /// Whose time it is: `None` is Valkey's own. Only tests have another.
    pub clock: Option<Clock>,
    /// Route events kept for followers that lag behind.
    pub route_events: usize,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp(String, u16),
    /// A socket in the file system of this host.
    Unix(PathBuf),
}

/// What is at the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Single,
    /// Sentinels, which know the server in charge.
    Sentinel {
        /// The name that they know it by.
        service: String,
    },
    /// A cluster.
    Cluster,
}

/// See the module.
pub struct ValkeyStore {
    settings: Settings,
    link: Link,
    scripts: Scripts,
    /// For those who wait: on the shared connection all others would wait behind them.
    waiting: Mutex<Vec<Wire>>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, mode, db, tls, prefix, .. } = self;
        write!(f, "{mode:?} {addresses:?}, database {db}, tls {tls}, keys {prefix}")
    }
}

/// One server of this host at the usual port, without a password, and our usual keys.
impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: vec![Address::Tcp("127.0.0.1".to_owned(), 6379)],
            mode: Mode::Single,
            username: None,
            password: None,
            db: 0,
            tls: false,
            prefix: "{try-it-now}".to_owned(),
            deadline: DEADLINE,
            clock: None,
            route_events: ROUTE_EVENTS,
        }
    }
}

impl ValkeyStore {
    /// A store that connects when it is first asked, and again whenever the connection breaks.
    pub fn new(settings: Settings) -> Self {
        let (link, scripts) = (Link::new(settings.clone()), Scripts::new());
        Self { settings, link, scripts, waiting: Mutex::default() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.settings.prefix)
    }

    /// Calls a script.
    async fn run(&self, script: &Script, arguments: &[&str]) -> Result<Reply, StoreError> {
        let now = self.settings.clock.as_ref().map(|clock| clock.now().0.to_string()).unwrap_or_default();
        let mut call = script.key(&self.settings.prefix);
        call.arg(now).arg(self.settings.route_events).arg(arguments);
        self.link.call(&Call::Script(call)).await.map(Reply::new)
    }

    /// Calls a script that changes something, under a name of its own: made again because its answer was lost, it answers
    /// the same, and does nothing.
    async fn once(&self, script: &Script, arguments: &[&str]) -> Result<Reply, StoreError> {
        let call = record::token(ClaimToken::random());
        let arguments: Vec<&str> = std::iter::once(call.as_str()).chain(arguments.iter().copied()).collect();
        self.run(script, &arguments).await
    }

    /// A step on a record. Its answer is the record.
    async fn step(
        &self,
        script: &Script,
        id: &InstanceId,
        arguments: &[&str],
    ) -> Result<(Instance, Reply), StoreError> {
        let arguments: Vec<&str> = std::iter::once(id.as_str()).chain(arguments.iter().copied()).collect();
        let mut reply = self.once(script, &arguments).await?;
        reply.outcome()?;
        let instance = reply.record(id.as_str())?;
        Ok((instance, reply))
    }

    /// Reads all pages of a script that has pages. Returns the records, the first page's present, and what `front` took
    /// from the front of each page after that.
    async fn pages(
        &self,
        script: &Script,
        of: Option<&str>,
        mut front: impl FnMut(&mut Reply) -> Result<(), StoreError> + Send,
    ) -> Result<(HashMap<InstanceId, Instance>, Millis), StoreError> {
        let (mut found, mut first, mut place) = (HashMap::new(), None, "0".to_owned());
        loop {
            let arguments: Vec<&str> = of.into_iter().chain([place.as_str()]).collect();
            let mut page = self.run(script, &arguments).await?;
            place = page.text()?;
            let now = page.millis()?;
            first.get_or_insert(now);
            front(&mut page)?;
            // One that came twice is newer the second time.
            page.records(|record| {
                found.insert(record.id().clone(), record);
            })?;
            if place == "0" {
                return Ok((found, first.unwrap_or(now)));
            }
        }
    }

    /// The events after `cursor` that are there; `None` is a gap.
    async fn news(&self, cursor: Cursor) -> Result<Option<Vec<(Cursor, RouteChange)>>, StoreError> {
        let (cursor, most) = (cursor.0.to_string(), BATCH.to_string());
        let mut reply = self.run(&self.scripts.events, &[&cursor, &most]).await?;
        if reply.text()? == "gap" {
            return Ok(None);
        }
        reply.events().map(Some)
    }

    /// Waits until there may be something after `cursor`.
    async fn wait(&self, cursor: Cursor, longest: Duration) -> Result<(), StoreError> {
        let idle = self.waiting.lock().pop();
        // Taken out while it is in use: one whose caller gave up is still waiting, and is dropped.
        let mut wire = match idle {
            Some(wire) => wire,
            None => {
                let connected = tokio::time::timeout(
                    self.settings.deadline,
                    self.link.connect(longest + self.settings.deadline),
                );
                match connected.await {
                    Ok(wire) => wire.map_err(unavailable)?,
                    Err(_) => return Err(StoreError::Unavailable("it cannot be reached in time".to_owned())),
                }
            }
        };
        let millis = usize::try_from(longest.as_millis()).unwrap_or(usize::MAX).max(1);
        let options = StreamReadOptions::default().block(millis).count(1);
        let (stream, after) = ([self.key("routes")], [format!("{}-0", cursor.0)]);
        let reading = wire.xread_options(&stream, &after, &options);
        let read: RedisResult<Option<StreamReadReply>> =
            match tokio::time::timeout(longest + self.settings.deadline, reading).await {
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
}

/// As text for a script, in milliseconds.
fn millis(time: Duration) -> String {
    time.as_millis().min(LONGEST).to_string()
}

#[async_trait]
impl Store for ValkeyStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        let arguments = [instance.id().as_str(), &record::write(&instance)];
        self.once(&self.scripts.insert, &arguments).await?.outcome()
    }

    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        let (offered, _) = self.step(&self.scripts.offer, id, &[&record::endpoint(endpoint)]).await?;
        Ok(offered)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let Claim { template, token, node, visitor, limits, ttl } = claim;
        let (hourly, daily) = (limits.hourly.to_string(), limits.daily.to_string());
        let (token, ttl) = (record::token(*token), millis(*ttl));
        let arguments = [template.as_str(), node.as_str(), &token, &visitor.0, &hourly, &daily, &ttl];
        self.run(&self.scripts.claim, &arguments).await?.claimed(*limits)
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let mut reply = self.run(&self.scripts.read, &[id.as_str()]).await?;
        let now = reply.millis()?;
        match reply.text()?.as_str() {
            "" => Ok(None),
            text => Ok(Some(record::read(id.as_str(), text).ok_or_else(broken)?.seen_at(now))),
        }
    }

    async fn extend(&self, id: &InstanceId, by: Duration, max_ttl: Duration) -> Result<Instance, StoreError> {
        let arguments = [id.as_str(), &millis(by), &millis(max_ttl)];
        let mut reply = self.once(&self.scripts.extend, &arguments).await?;
        reply.extended(max_ttl)?;
        reply.record(id.as_str())
    }

    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        let (released, mut reply) = self.step(&self.scripts.release, id, &[]).await?;
        Ok((released, Cursor(reply.number()?)))
    }

    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        Ok(self.step(&self.scripts.retire, id, &[]).await?.0)
    }

    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        Ok(self.step(&self.scripts.fail, id, &[]).await?.0)
    }

    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        let (mut expired, mut left) = (Vec::new(), limit);
        while left > 0 {
            let wanted = left.min(PIECE);
            let mut reply = self.once(&self.scripts.sweep, &[&wanted.to_string()]).await?;
            let done = usize::try_from(reply.number()?).map_err(|_| broken())?;
            reply.records(|record| expired.push(record))?;
            left = left.saturating_sub(done);
            if done < wanted {
                break;
            }
        }
        Ok(expired)
    }

    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        let first = Call::Command(Cmd::zrange_withscores(self.key("due"), 0, 0));
        let first: Vec<(String, f64)> = self.link.call(&first).await?;
        Ok(first.first().map(|(_, at)| Millis(*at as u64)))
    }

    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        let (found, now) = self.pages(&self.scripts.node, Some(node.as_str()), |_| Ok(())).await?;
        Ok(found.into_values().map(|record| record.seen_at(now)).collect())
    }

    async fn counts(&self, template: &TemplateName) -> Result<Counts, StoreError> {
        let fields = ["warming", "ready", "assigned"].map(|state| format!("{state}:{template}"));
        let counts = Call::Command(Cmd::hmget(self.key("counts"), &fields));
        let counts: Vec<Option<usize>> = self.link.call(&counts).await?;
        match counts.as_slice() {
            [warming, ready, assigned] => Ok(Counts {
                warming: warming.unwrap_or(0),
                ready: ready.unwrap_or(0),
                assigned: assigned.unwrap_or(0),
            }),
            _ => Err(broken()),
        }
    }

    /// As the embedded store does it: pages of the table, each of its own moment, and over them every event since the
    /// first page, in order, up to the cursor that is returned.
    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        loop {
            let mut cursor = None;
            let (mut table, now) = self
                .pages(&self.scripts.routes, None, |page| {
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
                    return Ok((table.into_values().map(|record| record.seen_at(now)).collect(), cursor));
                }
            }
        }
    }

    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        let mut news = self.news(cursor).await?;
        if news.as_ref().is_some_and(Vec::is_empty) && !wait.is_zero() {
            self.wait(cursor, wait).await?;
            news = self.news(cursor).await?;
        }
        Ok(news.map_or(RouteEvents::Gap, RouteEvents::Changes))
    }

    /// Whatever becomes of this server, Valkey stays.
    fn outlives_the_server(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.link.call(&Call::Command(redis::cmd("PING"))).await
    }
}
