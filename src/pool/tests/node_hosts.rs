//! The hosts of the nodes, which no instance may reach.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fixture::Fixture;
use crate::instance::NodeId;
use crate::store::{NodeInfo, Store as _};

#[tokio::test]
async fn the_hosts_of_all_nodes_are_reported_until_they_leave() {
    let fixture = Fixture::new().await;
    let membership = fixture.pool.membership();
    let mut hosts = membership.node_hosts();
    let mut reported = async || {
        membership.heartbeat("198.51.100.7:8080", &*fixture.pool.supply).await.unwrap();
        let is_changed = hosts.has_changed().unwrap();
        (is_changed, hosts.borrow_and_update().clone())
    };
    let of = |list: &[&str]| list.iter().map(|host| (*host).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(reported().await, (true, of(&["198.51.100.7"])));
    assert_eq!(reported().await, (false, of(&["198.51.100.7"])));
    let peer = NodeInfo {
        id: NodeId::random(),
        address: "[2001:db8::1]:80".to_owned(),
        mode: "process".to_owned(),
        pools: Vec::new(),
    };
    fixture.store.heartbeat(&peer).await.unwrap();
    assert_eq!(reported().await, (true, of(&["198.51.100.7", "[2001:db8::1]"])));
    fixture.store.evict_node(&peer.id, Duration::ZERO).await.unwrap();
    assert_eq!(reported().await, (true, of(&["198.51.100.7"])));
}
