//! The hosts that no instance reaches, whatever its template allows: those of the store and of all nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::backends::{find_store_hosts, store_hosts};
use crate::config;

/// How often the servers of the store are listed again.
const STORE_INTERVAL: Duration = Duration::from_secs(30);

/// Longest time to list the servers of the store.
const STORE_DEADLINE: Duration = Duration::from_secs(10);

/// The hosts of the store and the nodes, which change while the server runs.
pub(super) struct ForbiddenHosts {
    store: Option<config::ValkeySettings>,
    store_hosts: BTreeSet<String>,
    sender: watch::Sender<BTreeSet<String>>,
}

impl ForbiddenHosts {
    /// Returns the hosts that the settings of the store name. No node is known yet.
    pub(super) fn new(store: Option<config::ValkeySettings>) -> Self {
        let store_hosts = store_hosts(store.as_ref());
        Self { store, sender: watch::Sender::new(store_hosts.clone()), store_hosts }
    }

    /// Returns what the runtime follows.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeSet<String>> {
        self.sender.subscribe()
    }

    /// Keeps the hosts up to date until no node is reported any more.
    pub(super) async fn follow(mut self, mut nodes: watch::Receiver<BTreeSet<String>>) {
        let mut interval = tokio::time::interval(STORE_INTERVAL);
        loop {
            tokio::select! {
                changed = nodes.changed() => if changed.is_err() { return },
                _ = interval.tick(), if self.store.is_some() => self.list_store().await,
            }
            let hosts = &self.store_hosts | &*nodes.borrow_and_update();
            self.sender.send_if_modified(|known| {
                let is_new = *known != hosts;
                *known = hosts;
                is_new
            });
        }
    }

    /// Lists the servers of the store. If none answers, those that were known stay.
    async fn list_store(&mut self) {
        let Some(settings) = self.store.clone() else { return };
        if let Ok(Some(hosts)) = timeout(STORE_DEADLINE, find_store_hosts(settings)).await {
            self.store_hosts = hosts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ValkeyAddress, ValkeyMode, ValkeySettings};
    use crate::telemetry::task;

    fn hosts(hosts: &[&str]) -> BTreeSet<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    #[tokio::test]
    async fn hosts_of_the_store_and_of_all_nodes_are_forbidden() {
        let store = ValkeySettings {
            addresses: vec![
                ValkeyAddress::Tcp("store.test".to_owned(), 6379),
                ValkeyAddress::Unix("/run/valkey.sock".into()),
            ],
            mode: ValkeyMode::Single,
            username: None,
            password: None,
            db: 0,
            tls: false,
        };
        let forbidden = ForbiddenHosts::new(Some(store));
        let mut followed = forbidden.subscribe();
        assert_eq!(*followed.borrow_and_update(), hosts(&["store.test"]));
        let (nodes, reported) = watch::channel(BTreeSet::new());
        let following = task::spawn("forbidden hosts", forbidden.follow(reported));
        for (joined, expected) in
            [(&["a", "b"][..], &["a", "b", "store.test"][..]), (&["b"][..], &["b", "store.test"][..])]
        {
            nodes.send_replace(hosts(joined));
            followed.changed().await.unwrap();
            assert_eq!(*followed.borrow_and_update(), hosts(expected));
        }
        drop(nodes);
        following.await.unwrap();
    }
}
