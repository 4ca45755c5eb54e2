//! The methods of [`ValkeyStore`] about nodes: heartbeats, the list of nodes, draining and eviction.

use std::time::Duration;

use tokio::time::Instant;

use super::admission::{LastNodeList, not_verified};
use super::connection::Call;
use super::damage::malformed;
use super::record_codec::{duration_text, token_text};
use super::store::ValkeyStore;
use crate::clock::{Clock, Millis};
use crate::instance::{ClaimToken, Instance, NodeId};
use crate::store::{HeartbeatReply, NodeInfo, NodeStatus, StoreError};
use crate::template::Secret;

/// The longest call whose answer says what time it is.
const MAX_ALIGNING_CALL: Duration = Duration::from_millis(500);
/// How far this node's time may be from that of the cluster. `heartbeat.lua` has the same limit.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

impl ValkeyStore {
    /// Sends a heartbeat, and returns the nodes.
    ///
    /// The heartbeat is recorded even while no term is open. The list of nodes then lacks those that have not come back
    /// yet, so the last list from a term is returned instead, if there was one.
    pub(super) async fn send_heartbeat(&self, info: &NodeInfo) -> Result<HeartbeatReply, StoreError> {
        let admission = &self.admission;
        if admission.term().is_none() && admission.last_node_list.lock().list.is_none() {
            // The first heartbeat comes before all other calls, and its answer counts only in a term. It is sent even
            // if none opens.
            let _ignored = self.wait_for_term(Instant::now() + admission.settings.call_timeout).await;
        }
        let info_text = serde_json::to_string(info).map_err(|_| malformed())?;
        let (secret, acknowledged) = {
            let last = admission.last_node_list.lock();
            let secret = last.list.as_ref().map_or(&self.candidate_secret, |known| &known.secret);
            (secret.clone(), last.number)
        };
        let call = token_text(ClaimToken::random());
        let acknowledged_text = acknowledged.to_string();
        let arguments = [&call, info.id.as_str(), &info_text, secret.reveal(), &acknowledged_text];
        let heartbeat = Call::Script(admission.script_call(&admission.scripts.heartbeat, &arguments));
        let sent = Instant::now();
        let mut reply = admission.reply(admission.connection.call(&heartbeat).await?);
        let took = sent.elapsed();
        let (term, number, is_new, secret) =
            (reply.text()?, reply.number()?, reply.number()? == 1, reply.text()?);
        self.align_clock(reply.millis()?, took);
        let list = HeartbeatReply { nodes: reply.nodes()?, secret: Secret::new(secret), is_new };
        let mut last = admission.last_node_list.lock();
        match &last.list {
            Some(before) if !admission.is_open(&term) => {
                admission.damage.wake_recovery.notify_one();
                Ok(HeartbeatReply { is_new: false, ..before.clone() })
            }
            _ if admission.is_open(&term) => {
                *last = LastNodeList { list: Some(list.clone()), number, acknowledged };
                if list.is_new {
                    admission.unclaimed_check.want();
                    admission.damage.wake_recovery.notify_one();
                }
                Ok(list)
            }
            // Valkey may have lost the nodes and their shared secret.
            _ => Err(not_verified()),
        }
    }

    /// Aligns this node's time with that of the cluster, which an answer said that took so long. Once it is aligned, only
    /// a difference counts that the time on the way does not explain: this host stood still, or another node was right.
    fn align_clock(&self, answered: Millis, took: Duration) {
        let Some(clock @ Clock::Shared(time)) = &self.admission.settings.clock else { return };
        if took > MAX_ALIGNING_CALL {
            return;
        }
        let now = answered + took / 2;
        if !time.is_aligned() {
            time.align(now);
        } else if now.0.abs_diff(clock.now().0) > MAX_CLOCK_DIFFERENCE.as_millis() as u64 {
            tracing::warn!(own = %clock.now(), cluster = %now, "steady time differs from that of the cluster; aligned");
            time.align(now);
        }
    }

    /// Reads all nodes.
    pub(super) async fn read_nodes(&self) -> Result<Vec<NodeStatus>, StoreError> {
        self.run(&self.admission.scripts.nodes, &[]).await?.0.nodes()
    }

    /// Marks a node as draining, or removes the mark.
    pub(super) async fn set_draining(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        let on = if on { "1" } else { "0" };
        self.run_idempotent(&self.admission.scripts.drain, &[node.as_str(), on]).await?.0.outcome()
    }

    /// Evicts a node, one page of its records in each call. Returns the instances that became expired.
    pub(super) async fn evict_in_pages(
        &self,
        node: &NodeId,
        silence: Duration,
    ) -> Result<Vec<Instance>, StoreError> {
        let (mut expired, mut place) = (Vec::new(), "0".to_owned());
        let silence = duration_text(silence);
        loop {
            let arguments = [node.as_str(), &silence, &place];
            let (mut page, term) =
                self.run_idempotent(&self.admission.scripts.evict_node, &arguments).await?;
            place = page.text()?;
            self.note_expired(page, &term, &mut expired)?;
            if place == "0" {
                return Ok(expired);
            }
        }
    }
}
