//! [`ValkeyStore`]: each method of the [`Store`] is one step, and notes its answer in the grant log.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::admission::{Admission, OpenTerm};
use super::connection::Call;
use super::damage::malformed;
use super::record_codec::{self, duration_text, token_text};
use super::recovery::{self, GrantLog, LocalView};
use super::script_reply::ScriptReply;
use super::scripts::{CONFIRMED_PER_CALL, RECORDS_PER_CALL, Step};
use super::settings::Settings;
use super::transport::Transport;
use crate::clock::{Clock, Millis};
use crate::instance::{
    ClaimToken, Endpoint, Instance, InstanceId, NodeId, RateLimits, StateCounts, TemplateName,
};
use crate::store::nodes::random_secret;
use crate::store::{
    Claim, Claimed, Cursor, HeartbeatReply, NodeInfo, NodeStatus, RouteEvents, Store, StoreError,
};
use crate::template::Secret;

/// The store that many nodes share, on Valkey.
pub struct ValkeyStore {
    pub(super) admission: Arc<Admission>,
    /// Whether the recovery task was started.
    is_recovery_started: AtomicBool,
    /// Idle connections for calls that wait for route events: on the shared connection all other calls would wait
    /// behind them.
    pub(super) idle_transports: Mutex<Vec<Transport>>,
    /// Becomes the nodes' shared secret if they have none yet.
    pub(super) candidate_secret: Secret,
    _stop_recovery_on_drop: DropGuard,
}

impl ValkeyStore {
    /// Returns a store that connects at its first call, and again whenever the connection breaks. It knows what it
    /// granted for as long as this process lives.
    pub fn new(settings: Settings) -> Self {
        let grant_log = GrantLog::new(settings.node.clone());
        Self::with_grant_log(settings, grant_log)
    }

    /// Opens a store that writes what it granted to a journal, before the caller gets the answer, and begins with the
    /// content of the journal.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(settings: Settings, journal: &Path) -> io::Result<Self> {
        let now = settings.clock.clone().unwrap_or(Clock::System).now();
        let grant_log = GrantLog::open(settings.node.clone(), journal, now)?;
        Ok(Self::with_grant_log(settings, grant_log))
    }

    fn with_grant_log(settings: Settings, grant_log: GrantLog) -> Self {
        let admission = Arc::new(Admission::new(settings, grant_log));
        let stop_on_drop = admission.stop.clone().drop_guard();
        Self {
            admission,
            is_recovery_started: AtomicBool::new(false),
            idle_transports: Mutex::default(),
            candidate_secret: random_secret(),
            _stop_recovery_on_drop: stop_on_drop,
        }
    }

    /// Returns the key with that name.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.admission.settings.prefix)
    }

    /// Starts the recovery task at the first call that needs a term. It runs until the store is dropped.
    fn start_recovery(&self) {
        if !self.is_recovery_started.load(Ordering::Acquire)
            && !self.is_recovery_started.swap(true, Ordering::AcqRel)
        {
            crate::telemetry::task::spawn("store recovery", recovery::run(self.admission.clone()));
        }
    }

    /// Waits until a term is open.
    pub(super) async fn wait_for_term(&self, deadline: Instant) -> Result<Arc<OpenTerm>, StoreError> {
        self.start_recovery();
        self.admission.wait_for_term(deadline).await
    }

    /// Runs a step that only reads, or a claim.
    pub(super) async fn run(
        &self,
        step: &Step,
        arguments: &[&str],
    ) -> Result<(ScriptReply, Arc<OpenTerm>), StoreError> {
        self.start_recovery();
        self.admission.run(step, arguments).await
    }

    /// Runs a step that changes something, with a name for the call: if it is repeated because its answer was lost, it
    /// answers the same and does nothing.
    pub(super) async fn run_idempotent(
        &self,
        step: &Step,
        arguments: &[&str],
    ) -> Result<(ScriptReply, Arc<OpenTerm>), StoreError> {
        let call = token_text(ClaimToken::random());
        let arguments: Vec<&str> = std::iter::once(call.as_str()).chain(arguments.iter().copied()).collect();
        self.run(step, &arguments).await
    }

    /// Runs an idempotent step on a record, which its answer contains.
    async fn run_on_record(
        &self,
        step: &Step,
        id: &InstanceId,
        arguments: &[&str],
    ) -> Result<(Instance, ScriptReply, Arc<OpenTerm>), StoreError> {
        let arguments: Vec<&str> = std::iter::once(id.as_str()).chain(arguments.iter().copied()).collect();
        let (mut reply, term) = self.run_idempotent(step, &arguments).await?;
        reply.outcome()?;
        let instance = reply.record(id.as_str())?;
        Ok((instance, reply, term))
    }

    /// Runs a command that only reads.
    async fn read<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        self.start_recovery();
        self.admission.read(command).await
    }

    /// Notes the answer of a step in the grant log. Every step does so before its caller gets the answer: else a
    /// recovery would lack what the caller knows.
    ///
    /// # Errors
    /// The answer came too late to be believed.
    pub(super) fn note(
        &self,
        term: &OpenTerm,
        update: impl FnOnce(&mut LocalView),
    ) -> Result<(), StoreError> {
        self.admission.grant_log.lock().update_from(term.generation, update)
    }

    /// Reads the remaining records of an answer, which became expired, notes them, and appends them to `expired`.
    ///
    /// # Errors
    /// The answer came too late to be believed, or is malformed.
    pub(super) fn note_expired(
        &self,
        reply: ScriptReply,
        term: &OpenTerm,
        expired: &mut Vec<Instance>,
    ) -> Result<(), StoreError> {
        let before = expired.len();
        reply.records(|record| expired.push(record))?;
        self.note(term, |view| expired[before..].iter().for_each(|record| view.merge_if_known(record)))
    }
}

#[async_trait]
impl Store for ValkeyStore {
    async fn insert(&self, instance: Instance) -> Result<(), StoreError> {
        let arguments = [instance.id().as_str(), &record_codec::write(&instance)];
        let (mut reply, term) = self.run_idempotent(&self.admission.scripts.insert, &arguments).await?;
        reply.outcome()?;
        self.note(&term, |view| view.merge(&instance, false))
    }

    async fn offer(&self, id: &InstanceId, endpoint: Endpoint) -> Result<Instance, StoreError> {
        let endpoint = record_codec::endpoint_text(endpoint);
        let (offered, _, term) = self.run_on_record(&self.admission.scripts.offer, id, &[&endpoint]).await?;
        self.note(&term, |view| view.merge(&offered, false))?;
        Ok(offered)
    }

    async fn withdraw(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        let (withdrawn, _, term) = self.run_on_record(&self.admission.scripts.withdraw, id, &[]).await?;
        self.note(&term, |view| view.merge(&withdrawn, false))?;
        Ok(withdrawn)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let Claim { template, token, node, visitor, limits, ttl } = claim;
        let [hourly, daily, concurrent] =
            [limits.hourly, limits.daily, limits.concurrent].map(|limit| limit.to_string());
        let (token, ttl) = (token_text(*token), duration_text(*ttl));
        let of_visitor = [visitor.as_str(), &hourly, &daily, &concurrent];
        let arguments = [&[template.as_str(), node.as_str(), &token][..], &of_visitor, &[&ttl]].concat();
        let (reply, term) = self.run(&self.admission.scripts.claim, &arguments).await?;
        let claimed = reply.claimed(*limits)?;
        if let Some(granted) = claimed.instance() {
            self.note(&term, |view| view.merge(granted, true))?;
        }
        Ok(claimed)
    }

    async fn confirm(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        for portion in ids.chunks(CONFIRMED_PER_CALL) {
            let arguments: Vec<&str> = portion.iter().map(InstanceId::as_str).collect();
            let (mut reply, term) = self.run_idempotent(&self.admission.scripts.confirm, &arguments).await?;
            reply.outcome()?;
            self.admission.grant_log.lock().confirm(term.generation, portion)?;
        }
        Ok(())
    }

    async fn undo_claim(&self, claim: &Claim) -> Result<Instance, StoreError> {
        let Claim { template, token, visitor, limits, .. } = claim;
        let is_charged = if limits.has_windows() { "1" } else { "0" };
        let arguments = [template.as_str(), &token_text(*token), visitor.as_str(), is_charged];
        let (mut reply, term) = self.run_idempotent(&self.admission.scripts.undo_claim, &arguments).await?;
        reply.outcome()?;
        let id = reply.text()?;
        let ready = reply.record(&id)?;
        self.note(&term, |view| view.merge_if_known(&ready))?;
        Ok(ready)
    }

    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let (mut reply, _) = self.run(&self.admission.scripts.get, &[id.as_str()]).await?;
        let now = reply.millis()?;
        Ok(reply.optional_record(id.as_str())?.map(|record| record.seen_at(now)))
    }

    async fn extend(
        &self,
        id: &InstanceId,
        by: Duration,
        max_ttl: Duration,
        limits: RateLimits,
    ) -> Result<Instance, StoreError> {
        let [hourly, daily] = [limits.hourly, limits.daily].map(|limit| limit.to_string());
        let arguments = [id.as_str(), &duration_text(by), &duration_text(max_ttl), &hourly, &daily];
        let (mut reply, term) = self.run_idempotent(&self.admission.scripts.extend, &arguments).await?;
        reply.extended(max_ttl, limits)?;
        let extended = reply.record(id.as_str())?;
        self.note(&term, |view| view.merge(&extended, false))?;
        Ok(extended)
    }

    async fn release(&self, id: &InstanceId) -> Result<(Instance, Cursor), StoreError> {
        let (released, mut reply, term) =
            self.run_on_record(&self.admission.scripts.release, id, &[]).await?;
        let cursor = Cursor(reply.number()?);
        self.note(&term, |view| {
            view.advance_cursor(cursor);
            view.merge_end(&released, Instant::now());
        })?;
        Ok((released, cursor))
    }

    async fn retire(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        // Before the call: no visitor may get the instance from now on, even if the call fails.
        self.admission.grant_log.lock().view.mark_doubtful(id);
        let (retired, _, term) = self.run_on_record(&self.admission.scripts.retire, id, &[]).await?;
        self.note(&term, |view| view.merge_end(&retired, Instant::now()))?;
        Ok(retired)
    }

    async fn fail(&self, id: &InstanceId) -> Result<Instance, StoreError> {
        // Before the call, as in `retire`.
        self.admission.grant_log.lock().view.mark_doubtful(id);
        let (before, mut reply, term) = self.run_on_record(&self.admission.scripts.fail, id, &[]).await?;
        let after = reply.optional_record(id.as_str())?;
        self.note(&term, |view| match &after {
            Some(expired) => view.merge_if_known(expired),
            None => view.merge_end(&before, Instant::now()),
        })?;
        Ok(before)
    }

    async fn sweep(&self, limit: usize) -> Result<Vec<Instance>, StoreError> {
        let (mut expired, mut remaining) = (Vec::new(), limit);
        while remaining > 0 {
            let wanted = remaining.min(RECORDS_PER_CALL);
            let step = &self.admission.scripts.sweep;
            let (mut reply, term) = self.run_idempotent(step, &[&wanted.to_string()]).await?;
            let done = usize::try_from(reply.number()?).map_err(|_| malformed())?;
            self.note_expired(reply, &term, &mut expired)?;
            remaining = remaining.saturating_sub(done);
            if done < wanted {
                break;
            }
        }
        Ok(expired)
    }

    async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        let first: Vec<(String, f64)> = self.read(Cmd::zrange_withscores(self.key("due"), 0, 0)).await?;
        // Half a millisecond less than a whole one marks an unconfirmed claim, see the prelude.
        Ok(first.first().map(|(_, at)| Millis(at.ceil() as u64)))
    }

    async fn list(&self, node: &NodeId) -> Result<Vec<Instance>, StoreError> {
        let list = &self.admission.scripts.list;
        let known = self.admission.grant_log.lock().view.present();
        let (found, now, term) = self.read_pages(list, Some(node.as_str()), |_| Ok(())).await?;
        // The caller ends what runs and is not listed, so a list that lacks something must not be believed.
        if node == self.admission.node()
            && known.iter().any(|(id, ..)| !found.contains_key(id))
            && let Some(flaw) = self.admission.find_flaw(&term).await?
        {
            return Err(self.admission.damage.refuse(&flaw));
        }
        Ok(found.into_values().map(|record| record.seen_at(now)).collect())
    }

    async fn counts(
        &self,
        template: &TemplateName,
        node: Option<&NodeId>,
    ) -> Result<StateCounts, StoreError> {
        let states = ["warming", "ready", "assigned"];
        let [warming, ready, assigned] = match node {
            Some(node) => {
                let fields = states.map(|state| format!("{state}:{template}:{node}"));
                let counts: Vec<Option<usize>> = self.read(Cmd::hmget(self.key("counts"), &fields)).await?;
                <[_; 3]>::try_from(counts).map_err(|_| malformed())?.map(Option::unwrap_or_default)
            }
            None => {
                let counts: Vec<(String, usize)> = self.read(Cmd::hgetall(self.key("counts"))).await?;
                states.map(|state| {
                    let of_all_nodes = format!("{state}:{template}:");
                    counts
                        .iter()
                        .filter(|(field, _)| field.starts_with(&of_all_nodes))
                        .map(|(_, count)| count)
                        .sum()
                })
            }
        };
        Ok(StateCounts { warming, ready, assigned })
    }

    async fn heartbeat(&self, info: &NodeInfo) -> Result<HeartbeatReply, StoreError> {
        self.send_heartbeat(info).await
    }

    async fn nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        self.read_nodes().await
    }

    async fn drain(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        self.set_draining(node, on).await
    }

    async fn evict_node(&self, node: &NodeId, silence: Duration) -> Result<Vec<Instance>, StoreError> {
        self.evict_in_pages(node, silence).await
    }

    async fn evicted_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        let names: Vec<String> = self.read(Cmd::zrange(self.key("evicted"), 0, -1)).await?;
        let mut nodes: Vec<NodeId> = names.iter().filter_map(|name| NodeId::parse(name).ok()).collect();
        nodes.sort_unstable();
        Ok(nodes)
    }

    async fn forget_evicted(&self, node: &NodeId) -> Result<(), StoreError> {
        let forget = &self.admission.scripts.forget_evicted;
        self.run_idempotent(forget, &[node.as_str()]).await?.0.outcome()
    }

    async fn routes(&self) -> Result<(Vec<Instance>, Cursor), StoreError> {
        self.read_routes().await
    }

    async fn route_events(&self, cursor: Cursor, wait: Duration) -> Result<RouteEvents, StoreError> {
        self.read_route_events(cursor, wait).await
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.admission.connection.call(&Call::Command(redis::cmd("PING"))).await
    }
}
