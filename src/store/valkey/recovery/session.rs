//! The conversation of a node's recovery task with one Valkey process.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Script};

use crate::instance::{ClaimToken, InstanceId};
use crate::store::valkey::admission::{Admission, LastNodeList, OpenTerm};
use crate::store::valkey::damage::malformed;
use crate::store::valkey::error_text::unavailable;
use crate::store::valkey::memory_policy::{self, EvictionRisk};
use crate::store::valkey::record_codec::{self, token_text};
use crate::store::valkey::script_reply::ScriptReply;
use crate::store::valkey::scripts::RECORDS_PER_CALL;
use crate::store::valkey::transport::Transport;
use crate::store::{HeartbeatReply, StoreError};
use crate::template::Secret;

/// Pause while other nodes have not reported yet.
const REPORT_WAIT_INTERVAL: Duration = Duration::from_millis(20);

/// Whether the state of a Valkey is verified.
pub(super) enum VerificationState {
    /// It has this term for the process that was asked.
    Verified {
        /// The name of the term.
        term: String,
        /// The number of the newest node's first heartbeat.
        newest_heartbeat: u64,
    },
    /// A recovery is in progress.
    Recovering {
        /// The name of its round.
        round: String,
    },
}

/// A conversation with one Valkey process, on a connection that ends with that process.
///
/// Each method fails with `Unavailable` when a call has no answer, or one that no script gives.
pub(super) struct RecoverySession {
    admission: Arc<Admission>,
    transport: Transport,
    process: String,
}

impl RecoverySession {
    /// Begins a conversation with the process at the other end of the connection.
    pub(super) async fn begin(
        admission: Arc<Admission>,
        mut transport: Transport,
    ) -> Result<Self, StoreError> {
        let process = transport.process().await.map_err(unavailable)?;
        Ok(Self { admission, transport, process })
    }

    /// Ends the conversation, and returns its connection.
    pub(super) fn into_transport(self) -> Transport {
        self.transport
    }

    /// Returns whether Valkey may evict keys.
    pub(super) async fn eviction_risk(&mut self) -> Result<EvictionRisk, StoreError> {
        memory_policy::read(&mut self.transport).await.map_err(unavailable)
    }

    async fn call(&mut self, script: &Script, arguments: &[&str]) -> Result<ScriptReply, StoreError> {
        let call = self.admission.script_call(script, arguments);
        let words: Result<Vec<String>, RedisError> = call.invoke_async(&mut self.transport).await;
        words.map(|words| self.admission.reply(words)).map_err(|error| {
            self.admission.damage.note_error(&error);
            unavailable(error)
        })
    }

    /// Asks whether the state is verified. If it is not, or its data is `damaged`, and no recovery is in progress, one
    /// begins.
    pub(super) async fn verification_state(
        &mut self,
        damaged: Option<&str>,
    ) -> Result<VerificationState, StoreError> {
        let admission = self.admission.clone();
        let (epoch, round) = (admission.grant_log.lock().epoch.to_string(), random_name());
        let process = self.process.clone();
        let mut reply = self
            .call(&admission.scripts.recover_begin, &[&process, &epoch, &round, damaged.unwrap_or_default()])
            .await?;
        match reply.text()?.as_str() {
            "verified" => {
                Ok(VerificationState::Verified { term: reply.text()?, newest_heartbeat: reply.number()? })
            }
            "recovering" => Ok(VerificationState::Recovering { round: reply.text()? }),
            _ => Err(malformed()),
        }
    }

    /// Takes part in a round, and returns the term that follows it. `None` when the round is over without this node's
    /// report.
    pub(super) async fn recover(&mut self, round: &str) -> Result<Option<String>, StoreError> {
        while self.call(&self.admission.clone().scripts.recover_rebuild, &[round]).await?.text()? == "more" {}
        if !self.report_nodes(round).await? || !self.report_view("round", round).await? {
            return Ok(None);
        }
        let admission = self.admission.clone();
        let recovery_timeout = admission.settings.recovery_timeout.as_millis().to_string();
        let (term_suffix, node) = (random_name(), admission.node().as_str());
        let mut place = [String::new(), String::new(), "0".to_owned()];
        loop {
            let [version, template, at] = &place;
            let arguments = [round, node, &recovery_timeout, &term_suffix, version, template, at];
            let mut reply = self.call(&admission.scripts.recover_finish, &arguments).await?;
            match reply.text()?.as_str() {
                "wait" => tokio::time::sleep(REPORT_WAIT_INTERVAL).await,
                "more" => place = [reply.text()?, reply.text()?, reply.text()?],
                "verified" => return reply.text().map(Some),
                "over" => return Ok(None),
                _ => return Err(malformed()),
            }
        }
    }

    /// Reports the nodes of the last list that this node got in a term. False when the round is over.
    async fn report_nodes(&mut self, round: &str) -> Result<bool, StoreError> {
        let admission = self.admission.clone();
        let cursor = admission.grant_log.lock().view.cursor().0.to_string();
        let (list, number) = {
            let last = admission.last_node_list.lock();
            (last.list.clone(), last.number.to_string())
        };
        let secret = list.as_ref().map(|known| known.secret.reveal().to_owned()).unwrap_or_default();
        let mut arguments = vec![round.to_owned(), admission.node().to_string(), cursor, number, secret];
        for node in list.iter().flat_map(|known| &known.nodes) {
            arguments.push(node.info.id.to_string());
            arguments.push(serde_json::to_string(&node.info).map_err(|_| malformed())?);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.report(&admission.scripts.recover_nodes, &arguments).await
    }

    /// Reports the whole local view. `when` is "round" or "late", `name` that of the round or term. False when that is
    /// over.
    async fn report_view(&mut self, when: &str, name: &str) -> Result<bool, StoreError> {
        let admission = self.admission.clone();
        let facts = admission.grant_log.lock().begin_report();
        for page in facts.chunks(RECORDS_PER_CALL) {
            let mut arguments = vec![when, name, admission.node().as_str()];
            arguments.extend(page.iter().flat_map(|(id, fact)| [id.as_str(), fact.as_str()]));
            if !self.report(&admission.scripts.recover_report, &arguments).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn report(&mut self, script: &Script, arguments: &[&str]) -> Result<bool, StoreError> {
        match self.call(script, arguments).await?.text()?.as_str() {
            "ok" => Ok(true),
            "over" => Ok(false),
            _ => Err(malformed()),
        }
    }

    /// Opens a term, and reports the local view to it before, unless that was done in its round (`is_reported`) or
    /// earlier. False when the term is over.
    pub(super) async fn open_term(&mut self, term: &str, is_reported: bool) -> Result<bool, StoreError> {
        let admission = self.admission.clone();
        let is_reported = is_reported || admission.grant_log.lock().is_reported_to(term);
        if !is_reported && !self.report_view("late", term).await? {
            return Ok(false);
        }
        let epoch = term.split('.').next().and_then(|epoch| epoch.parse().ok()).ok_or_else(malformed)?;
        let steps = admission.scripts.steps_of(term);
        steps.load(&mut self.transport, &admission.terms_loaded).await.map_err(unavailable)?;
        let generation = admission.grant_log.lock().generation();
        let open = OpenTerm { name: term.to_owned(), process: self.process.clone(), steps, generation };
        if !self.check_unclaimed(&open).await? {
            return Ok(false);
        }
        admission.grant_log.lock().set_reported_to(term, epoch);
        admission.open_term(open);
        Ok(true)
    }

    /// Checks the unclaimed instances if another node may have removed them. Closes the term if it is over.
    pub(super) async fn check_unclaimed_if_needed(&mut self) -> Result<(), StoreError> {
        let admission = self.admission.clone();
        let Some(wanted) = admission.unclaimed_check.pending() else { return Ok(()) };
        let Some(open) = admission.term() else { return Ok(()) };
        if !self.check_unclaimed(&open).await? {
            admission.close_term(&open);
        }
        admission.unclaimed_check.finish(wanted);
        Ok(())
    }

    /// Lets Valkey know that this node has a list with the newest node, if this node is on record itself. Until then
    /// the newest node gets no ready instance of this one.
    pub(super) async fn acknowledge_nodes(&mut self, newest_heartbeat: u64) -> Result<(), StoreError> {
        let admission = self.admission.clone();
        while admission.last_node_list.lock().acknowledged < newest_heartbeat {
            let acknowledged = admission.last_node_list.lock().number;
            let arguments = [admission.node().as_str(), &acknowledged.to_string()];
            let mut reply = self.call(&admission.scripts.acknowledge_nodes, &arguments).await?;
            let term = reply.text()?;
            if !admission.is_open(&term) {
                break;
            }
            let (number, secret) = (reply.number()?, Secret::new(reply.text()?));
            if number < newest_heartbeat {
                admission.damage.note("the count of heartbeats is lost");
                break;
            }
            let list = HeartbeatReply { nodes: reply.nodes()?, secret, is_new: false };
            let mut last = admission.last_node_list.lock();
            // A heartbeat may have been answered meanwhile.
            if number >= last.number {
                *last = LastNodeList { list: Some(list), number, acknowledged };
            }
        }
        Ok(())
    }

    /// Reads all instances that no visitor has had as far as this node knows, merges their records, and forgets those
    /// that Valkey does not have. False when the term is over.
    async fn check_unclaimed(&mut self, term: &OpenTerm) -> Result<bool, StoreError> {
        let admission = self.admission.clone();
        let (unclaimed, version) = {
            let grant_log = admission.grant_log.lock();
            (grant_log.view.unclaimed(), grant_log.view.version())
        };
        for page in unclaimed.chunks(RECORDS_PER_CALL) {
            let ids: Vec<&str> = page.iter().map(InstanceId::as_str).collect();
            let call = admission.step_call(term, &admission.scripts.get, &ids);
            let words: Result<Vec<String>, RedisError> = call.query_async(&mut self.transport).await;
            let words = words.map_err(|error| {
                admission.damage.note_error(&error);
                unavailable(error)
            })?;
            if words.len() != page.len() + 1 {
                return Ok(false);
            }
            let found = page.iter().zip(&words[1..]);
            let found: Vec<_> = found.map(|(id, text)| (id, record_codec::read(id.as_str(), text))).collect();
            admission.grant_log.lock().update(|view| {
                for (id, record) in found {
                    match record {
                        Some(record) => view.merge_if_known(&record),
                        None => view.forget_unclaimed(id, version),
                    }
                }
            });
        }
        Ok(true)
    }
}

/// Returns a name that nothing else has: 128 random bits as text.
fn random_name() -> String {
    token_text(ClaimToken::random())
}
