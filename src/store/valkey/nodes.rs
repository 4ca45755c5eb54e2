//! The nodes: who is there, and what becomes of one that is not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::admission::Heard;
use super::connection::Call;
use super::script_reply::{Reply, broken};
use super::{ValkeyStore, millis, record_codec};
use crate::instance::{ClaimToken, Instance, NodeId};
use crate::store::{Membership, NodeInfo, NodeStatus, StoreError};
use crate::template::Secret;

impl ValkeyStore {
    /// While the store is being recovered it lacks nodes that have not come back to it yet: then the answer is what was heard
    /// last, if anything was. The node is heard all the same.
    pub(super) async fn register(&self, card: &NodeInfo) -> Result<Membership, StoreError> {
        let gate = &self.gate;
        if gate.current().is_none() && gate.heard.lock().roster.is_none() {
            // The first beat comes before all else. What it is told counts only under a tenure.
            let _heard_all_the_same = gate.passed(Instant::now() + gate.settings.deadline).await;
        }
        let text = serde_json::to_string(card).map_err(|_| broken())?;
        let (secret, acknowledged) = {
            let heard = gate.heard.lock();
            let secret = heard.roster.as_ref().map_or(&self.candidate, |roster| &roster.secret);
            (secret.clone(), heard.number)
        };
        let number = acknowledged.to_string();
        let call = record_codec::token(ClaimToken::random());
        let arguments = [&call, card.id.as_str(), &text, secret.reveal(), &number];
        let beat = Call::Script(gate.other(&gate.scripts.beat, &arguments));
        let mut reply = Reply::new(gate.link.call(&beat).await?);
        let (tenure, number, new, secret) = (reply.text()?, reply.number()?, reply.number()?, reply.text()?);
        let told = Membership { members: reply.members()?, secret: Secret::new(secret), returned: new == 1 };
        let mut heard = gate.heard.lock();
        match &heard.roster {
            Some(before) if gate.current().is_none_or(|open| open.tenure != tenure) => {
                gate.wake.notify_one();
                Ok(Membership { returned: false, ..before.clone() })
            }
            _ if gate.current().is_some_and(|open| open.tenure == tenure) => {
                *heard = Heard { roster: Some(told.clone()), number, acknowledged };
                if told.returned {
                    gate.unsure.store(true, Ordering::Release);
                    gate.wake.notify_one();
                }
                Ok(told)
            }
            // It cannot be told from a store that lost who was there, and what they share.
            _ => Err(StoreError::Unavailable("it is being recovered".to_owned())),
        }
    }

    pub(super) async fn read_roster(&self) -> Result<Vec<NodeStatus>, StoreError> {
        self.run(&self.gate.scripts.roster, &[]).await?.members()
    }

    pub(super) async fn set_draining(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        let on = if on { "1" } else { "0" };
        self.once(&self.gate.scripts.drain, &[node.as_str(), on]).await?.0.outcome()
    }

    pub(super) async fn bury_in_pages(
        &self,
        node: &NodeId,
        silence: Duration,
    ) -> Result<Vec<Instance>, StoreError> {
        let (mut expired, mut place) = (Vec::new(), "0".to_owned());
        let silence = millis(silence);
        loop {
            let arguments = [node.as_str(), &silence, &place];
            let (mut page, open) = self.once(&self.gate.scripts.bury, &arguments).await?;
            place = page.text()?;
            self.learn_expired(page, &open, &mut expired)?;
            if place == "0" {
                return Ok(expired);
            }
        }
    }
}
