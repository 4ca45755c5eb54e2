//! The store that many servers share: Valkey 8 or newer, or Redis 7.
//!
//! Every transition is one call of a script (`scripts/`), which Valkey runs alone, by its own clock: all of it
//! happens or none, whoever else calls. The rules are those of [`crate::instance`], and the same conformance suite
//! holds them together.
//!
//! All keys share one hash tag. On a cluster they lie on one server, and in return the route events of all templates
//! have one order, a sweep looks at all templates at once, and a snapshot is exact. One Valkey runs tens of thousands
//! of claims a second; a second one would not make any of them faster.
//!
//! A Valkey that ends may come back with an older past, or empty: [`recovery`] says what is done about that.

mod admission;
mod connection;
mod nodes;
mod record_codec;
mod recovery;
mod scan;
mod script_reply;
mod scripts;
mod settings;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::Cmd;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use self::scripts::GatedScript;
pub use self::settings::{Address, DEADLINE, Mode, PATIENCE, ROUTE_EVENTS, Settings};
use super::nodes::fresh_secret;
use super::{Claim, Claimed, Cursor, Membership, NodeInfo, NodeStatus, RouteEvents, Store, StoreError};
use crate::clock::{Clock, Millis};
use crate::instance::Counts;
use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, NodeId, TemplateName};
use crate::template::Secret;
use admission::{Admission, Open};
use connection::{Call, Transport};
use recovery::grant_log::GrantLog;
use recovery::local_view::LocalView;
use script_reply::{Reply, broken};

/// Most records done something with in one call: Valkey serves nobody else meanwhile.
const PIECE: usize = 128;
/// Most claims confirmed in one call: as many as take well under a millisecond, for claims wait meanwhile.
const CONFIRMED: usize = 32;

/// Longest time in milliseconds that means anything; beyond it a script's numbers are not exact.
const LONGEST: u128 = 1 << 50;

/// See the module.
pub struct ValkeyStore {
    gate: Arc<Admission>,
    /// For those who wait: on the shared connection all others would wait behind them.
    waiting: Mutex<Vec<Transport>>,
    /// The nodes' secret, if they have none yet.
    candidate: Secret,
    _keeper: DropGuard,
}

impl ValkeyStore {
    /// A store that connects when it is first asked, and again whenever the connection breaks. What it hands out it knows as
    /// long as this process lives.
    pub fn new(settings: Settings) -> Self {
        let notebook = GrantLog::new(settings.node.clone());
        Self::with(settings, notebook)
    }

    /// One that writes what it hands out into a file, before anybody hears of it, and begins with what the file says.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(settings: Settings, journal: &Path) -> io::Result<Self> {
        let now = settings.clock.clone().unwrap_or(Clock::System).now();
        let notebook = GrantLog::open(settings.node.clone(), journal, now)?;
        Ok(Self::with(settings, notebook))
    }

    fn with(settings: Settings, notebook: GrantLog) -> Self {
        let gate = Arc::new(Admission::new(settings, notebook));
        let keeper = gate.stop.clone().drop_guard();
        Self { gate, waiting: Mutex::default(), candidate: fresh_secret(), _keeper: keeper }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.gate.settings.prefix)
    }

    /// Has a step done that only reads.
    async fn run(&self, step: &GatedScript, arguments: &[&str]) -> Result<Reply, StoreError> {
        Ok(self.gate.run(step, arguments).await?.0)
    }

    /// Has a step done that changes something, under a name of its own: made again because its answer was lost, it answers
    /// the same, and does nothing.
    async fn once(&self, step: &GatedScript, arguments: &[&str]) -> Result<(Reply, Arc<Open>), StoreError> {
        let call = record_codec::token(ClaimToken::random());
        let arguments: Vec<&str> = std::iter::once(call.as_str()).chain(arguments.iter().copied()).collect();
        self.gate.run(step, &arguments).await
    }

    /// A step on a record. Its answer is the record.
    async fn step(
        &self,
        step: &GatedScript,
        id: &InstanceId,
        arguments: &[&str],
    ) -> Result<(Instance, Reply, Arc<Open>), StoreError> {
        let arguments: Vec<&str> = std::iter::once(id.as_str()).chain(arguments.iter().copied()).collect();
        let (mut reply, open) = self.once(step, &arguments).await?;
        reply.outcome()?;
        let instance = reply.record(id.as_str())?;
        Ok((instance, reply, open))
    }

    /// Writes down what an answer says, before anybody hears of it.
    ///
    /// # Errors
    /// It came too late to be believed.
    fn learn(&self, open: &Open, learn: impl FnOnce(&mut LocalView)) -> Result<(), StoreError> {
        self.gate.notebook.lock().note_in(open.era, learn)
    }

    /// Takes the records of an answer that became expired.
    fn learn_expired(
        &self,
        reply: Reply,
        open: &Open,
        expired: &mut Vec<Instance>,
    ) -> Result<(), StoreError> {
        let before = expired.len();
        reply.records(|record| expired.push(record))?;
        self.learn(open, |known| expired[before..].iter().for_each(|record| known.merge_if_known(record)))
    }
}

/// As text for a script, in milliseconds.
fn millis(time: Duration) -> String {
    time.as_millis().min(LONGEST).to_string()
}

#[async_trait]
impl Store for ValkeyStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        let arguments = [instance.id().as_str(), &record_codec::write(&instance)];
        let (mut reply, open) = self.once(&self.gate.scripts.insert, &arguments).await?;
        reply.outcome()?;
        self.learn(&open, |known| known.learn(&instance, false))
    }

    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        let at = record_codec::endpoint(endpoint);
        let (offered, _, open) = self.step(&self.gate.scripts.offer, id, &[&at]).await?;
        self.learn(&open, |known| known.learn(&offered, false))?;
        Ok(offered)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let Claim { template, token, node, visitor, limits, ttl } = claim;
        let (hourly, daily) = (limits.hourly.to_string(), limits.daily.to_string());
        let (token, ttl) = (record_codec::token(*token), millis(*ttl));
        let arguments = [template.as_str(), node.as_str(), &token, &visitor.0, &hourly, &daily, &ttl];
        let (reply, open) = self.gate.run(&self.gate.scripts.claim, &arguments).await?;
        let claimed = reply.claimed(*limits)?;
        if let Some(granted) = claimed.instance() {
            self.learn(&open, |known| known.learn(granted, true))?;
        }
        Ok(claimed)
    }

    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        for piece in ids.chunks(CONFIRMED) {
            let ids: Vec<&str> = piece.iter().map(InstanceId::as_str).collect();
            let (mut reply, open) = self.once(&self.gate.scripts.confirm, &ids).await?;
            reply.outcome()?;
            self.gate.notebook.lock().confirmed(open.era, piece)?;
        }
        Ok(())
    }

    async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError> {
        let Claim { template, token, visitor, limits, .. } = claim;
        let limited = if limits.are_none() { "0" } else { "1" };
        let arguments = [template.as_str(), &record_codec::token(*token), &visitor.0, limited];
        let (mut reply, open) = self.once(&self.gate.scripts.take_back, &arguments).await?;
        reply.outcome()?;
        let id = reply.text()?;
        let ready = reply.record(&id)?;
        self.learn(&open, |known| known.merge_if_known(&ready))?;
        Ok(ready)
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let mut reply = self.run(&self.gate.scripts.read, &[id.as_str()]).await?;
        let now = reply.millis()?;
        match reply.text()?.as_str() {
            "" => Ok(None),
            text => Ok(Some(record_codec::read(id.as_str(), text).ok_or_else(broken)?.seen_at(now))),
        }
    }

    async fn extend(&self, id: &InstanceId, by: Duration, max_ttl: Duration) -> Result<Instance, StoreError> {
        let arguments = [id.as_str(), &millis(by), &millis(max_ttl)];
        let (mut reply, open) = self.once(&self.gate.scripts.extend, &arguments).await?;
        reply.extended(max_ttl)?;
        let extended = reply.record(id.as_str())?;
        self.learn(&open, |known| known.learn(&extended, false))?;
        Ok(extended)
    }

    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        let (released, mut reply, open) = self.step(&self.gate.scripts.release, id, &[]).await?;
        let cursor = Cursor(reply.number()?);
        self.learn(&open, |known| {
            known.saw(cursor);
            known.end(&released, Instant::now());
        })?;
        Ok((released, cursor))
    }

    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        // Whatever comes of it, nobody is to get it.
        self.gate.notebook.lock().known.doubt(id);
        let (retired, _, open) = self.step(&self.gate.scripts.retire, id, &[]).await?;
        self.learn(&open, |known| known.end(&retired, Instant::now()))?;
        Ok(retired)
    }

    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        self.gate.notebook.lock().known.doubt(id);
        let (before, mut reply, open) = self.step(&self.gate.scripts.fail, id, &[]).await?;
        let after = match reply.text()?.as_str() {
            "" => None,
            text => Some(record_codec::read(id.as_str(), text).ok_or_else(broken)?),
        };
        self.learn(&open, |known| match &after {
            Some(ended) => known.merge_if_known(ended),
            None => known.end(&before, Instant::now()),
        })?;
        Ok(before)
    }

    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        let (mut expired, mut left) = (Vec::new(), limit);
        while left > 0 {
            let wanted = left.min(PIECE);
            let (mut reply, open) = self.once(&self.gate.scripts.sweep, &[&wanted.to_string()]).await?;
            let done = usize::try_from(reply.number()?).map_err(|_| broken())?;
            self.learn_expired(reply, &open, &mut expired)?;
            left = left.saturating_sub(done);
            if done < wanted {
                break;
            }
        }
        Ok(expired)
    }

    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        let first = Cmd::zrange_withscores(self.key("due"), 0, 0);
        let first: Vec<(String, f64)> = self.gate.read(first).await?;
        // Half a millisecond less than a whole one says that it is unconfirmed, see the prelude.
        Ok(first.first().map(|(_, at)| Millis(at.ceil() as u64)))
    }

    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        let (found, now, _) = self.pages(&self.gate.scripts.node, Some(node.as_str()), |_| Ok(())).await?;
        Ok(found.into_values().map(|record| record.seen_at(now)).collect())
    }

    async fn counts(&self, template: &TemplateName, node: Option<&NodeId>) -> Result<Counts, StoreError> {
        let states = ["warming", "ready", "assigned"];
        let [warming, ready, assigned] = match node {
            Some(node) => {
                let fields = states.map(|state| format!("{state}:{template}:{node}"));
                let counts: Vec<Option<usize>> =
                    self.gate.read(Cmd::hmget(self.key("counts"), &fields)).await?;
                <[_; 3]>::try_from(counts).map_err(|_| broken())?.map(Option::unwrap_or_default)
            }
            None => {
                let counts: Vec<(String, usize)> = self.gate.read(Cmd::hgetall(self.key("counts"))).await?;
                states.map(|state| {
                    let of_all = format!("{state}:{template}:");
                    counts
                        .iter()
                        .filter(|(field, _)| field.starts_with(&of_all))
                        .map(|(_, count)| count)
                        .sum()
                })
            }
        };
        Ok(Counts { warming, ready, assigned })
    }

    async fn heartbeat(&self, card: &NodeInfo) -> Result<Membership, StoreError> {
        self.register(card).await
    }

    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        self.read_roster().await
    }

    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        self.set_draining(node, on).await
    }

    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        self.bury_in_pages(node, silence).await
    }

    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        self.read_routes().await
    }

    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        self.read_route_events(cursor, wait).await
    }

    /// Whatever becomes of this server, Valkey stays.
    fn outlives_the_server(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.gate.link.call(&Call::Command(redis::cmd("PING"))).await
    }
}
