//! The beat: each second a server tells the others that it is there, learns who else is, and ends what those had that
//! have been silent for too long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::Directory;
use crate::instance::NodeId;
use crate::pool::Pool;
use crate::store::Membership;
use crate::template::Secret;

/// From one beat to the next.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub struct Heartbeat {
    /// What this server has, and what is done to that of others.
    pub pool: Arc<Pool>,
    /// Where the others are.
    pub directory: Arc<Directory>,
    /// Where the others reach this server: `host:port`.
    pub address: String,
    /// What all servers share; `None` is what the store has for that.
    pub secret: Option<Secret>,
    /// How long another may be silent before what it has is over.
    pub timeout: Duration,
}

impl Heartbeat {
    /// Beats until the pool has left. The first beat is done, or has failed, when this returns; the others go on by
    /// themselves.
    pub async fn run(self) {
        let mut lost = false;
        if self.once(&mut lost).await.is_some() {
            crate::telemetry::task::spawn("nodes beat", self.go_on(lost));
        }
    }

    async fn go_on(self, mut lost: bool) {
        let mut ticks = tokio::time::interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let buried = Arc::new(Notify::new());
        let mut burials: HashMap<NodeId, JoinHandle<()>> = HashMap::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // Whoever is gone is no longer where it was, and may come back elsewhere.
                () = buried.notified() => {}
            }
            let Some(roster) = self.once(&mut lost).await else { return };
            burials.retain(|_, burial| !burial.is_finished());
            let silent = |roster: Membership| {
                roster.members.into_iter().filter(|member| member.silent >= self.timeout)
            };
            for gone in roster.into_iter().flat_map(silent) {
                // Aside, for it may take longer than to the next beat.
                burials.entry(gone.card.id.clone()).or_insert_with(|| {
                    let (pool, buried, timeout) = (self.pool.clone(), buried.clone(), self.timeout);
                    crate::telemetry::task::spawn("nodes bury", async move {
                        if pool.evict_node(&gone.card.id, timeout).await {
                            buried.notify_one();
                        }
                    })
                });
            }
        }
    }

    /// `None` when there is nobody to beat for any more. `lost` is whether the last beat was.
    async fn once(&self, lost: &mut bool) -> Option<Option<Membership>> {
        match self.pool.heartbeat(&self.address).await {
            Ok(None) => None,
            Ok(Some(roster)) => {
                let places =
                    roster.members.iter().map(|member| (member.card.id.clone(), member.card.address.clone()));
                let secret = self.secret.as_ref().unwrap_or(&roster.secret);
                self.directory.update(places, secret);
                self.pool.set_shared_secret(secret);
                if std::mem::take(lost) {
                    self.pool.resync();
                }
                Some(Some(roster))
            }
            Err(error) => {
                if !std::mem::replace(lost, true) {
                    tracing::warn!(%error, "the others are not told that this server is there");
                }
                Some(None)
            }
        }
    }
}
