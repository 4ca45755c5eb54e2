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
mod nodes;
mod pages;
mod record;
mod reply;
mod scripts;
mod settings;

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{Cmd, Script};

use self::link::{Call, Link, Wire};
use self::reply::{Reply, broken};
use self::scripts::Scripts;
pub use self::settings::{Address, DEADLINE, Mode, ROUTE_EVENTS, Settings};
use super::nodes::fresh_secret;
use super::{Claim, Claimed, Counts, Cursor, Member, NodeCard, Roster, RouteEvents, Store, StoreError};
use crate::clock::Millis;
use crate::config::Secret;
use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, NodeId, TemplateName};

/// Most records done something with in one call: Valkey serves nobody else meanwhile.
const PIECE: usize = 128;

/// Longest time in milliseconds that means anything; beyond it a script's numbers are not exact.
const LONGEST: u128 = 1 << 50;

/// See the module.
pub struct ValkeyStore {
    settings: Settings,
    link: Link,
    scripts: Scripts,
    /// For those who wait: on the shared connection all others would wait behind them.
    waiting: Mutex<Vec<Wire>>,
    /// The nodes' secret as last heard, for a Valkey that comes back without it; before that, one for the first of all.
    candidate: Mutex<Secret>,
}

impl ValkeyStore {
    /// A store that connects when it is first asked, and again whenever the connection breaks.
    pub fn new(settings: Settings) -> Self {
        let (link, scripts) = (Link::new(settings.clone()), Scripts::new());
        Self { settings, link, scripts, waiting: Mutex::default(), candidate: Mutex::new(fresh_secret()) }
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

    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        for piece in ids.chunks(PIECE) {
            let ids: Vec<&str> = piece.iter().map(InstanceId::as_str).collect();
            self.once(&self.scripts.confirm, &ids).await?.outcome()?;
        }
        Ok(())
    }

    async fn take_back(&self, claim: &Claim) -> Result<Instance, StoreError> {
        let Claim { template, token, visitor, limits, .. } = claim;
        let limited = if limits.are_none() { "0" } else { "1" };
        let arguments = [template.as_str(), &record::token(*token), &visitor.0, limited];
        let mut reply = self.once(&self.scripts.take_back, &arguments).await?;
        reply.outcome()?;
        let id = reply.text()?;
        reply.record(&id)
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

    async fn counts(&self, template: &TemplateName, node: Option<&NodeId>) -> Result<Counts, StoreError> {
        let of = node.map_or_else(|| template.to_string(), |node| format!("{template}:{node}"));
        let fields = ["warming", "ready", "assigned"].map(|state| format!("{state}:{of}"));
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

    async fn beat(&self, card: &NodeCard) -> Result<Roster, StoreError> {
        self.register(card).await
    }

    async fn roster(&self) -> Result<Vec<Member>, StoreError> {
        self.read_roster().await
    }

    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        self.set_draining(node, on).await
    }

    async fn bury(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
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
        self.link.call(&Call::Command(redis::cmd("PING"))).await
    }
}
