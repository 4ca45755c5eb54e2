//! The nodes: who is there, and what becomes of one that is not.

use std::time::Duration;

use super::reply::broken;
use super::{ValkeyStore, millis};
use crate::config::Secret;
use crate::instance::{Instance, NodeId};
use crate::store::{Member, NodeCard, Roster, StoreError};

impl ValkeyStore {
    pub(super) async fn register(&self, card: &NodeCard) -> Result<Roster, StoreError> {
        let text = serde_json::to_string(card).map_err(|_| broken())?;
        let candidate = self.candidate.lock().clone();
        let arguments = [card.id.as_str(), &text, candidate.reveal()];
        let mut reply = self.once(&self.scripts.beat, &arguments).await?;
        let (new, secret) = (reply.number()?, Secret::new(reply.text()?));
        *self.candidate.lock() = secret.clone();
        Ok(Roster { members: reply.members()?, secret, returned: new == 1 })
    }

    pub(super) async fn read_roster(&self) -> Result<Vec<Member>, StoreError> {
        self.run(&self.scripts.roster, &[]).await?.members()
    }

    pub(super) async fn set_draining(&self, node: &NodeId, on: bool) -> Result<(), StoreError> {
        let on = if on { "1" } else { "0" };
        self.once(&self.scripts.drain, &[node.as_str(), on]).await?.outcome()
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
            let mut page = self.once(&self.scripts.bury, &arguments).await?;
            place = page.text()?;
            page.records(|record| expired.push(record))?;
            if place == "0" {
                return Ok(expired);
            }
        }
    }
}
