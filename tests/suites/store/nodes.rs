//! Membership: which nodes send heartbeats, and what happens to the instances of a node that does not.

use std::time::Duration;

use try_it_now::instance::{EndReason, InstanceId, State};
use try_it_now::store::{
    Claimed, EVICTED_RETENTION, HeartbeatReply, MAX_HEARTBEAT_GAP, NodeInfo, NodeStatus, PoolInfo,
    RouteChange, SUSPECT_AFTER, StoreError,
};

use super::fixture::{StoreFixture, TTL, ids, new_claim, node, sorted, template};

const SECOND: Duration = Duration::from_secs(1);
/// A longer gap between heartbeats of all nodes is an outage of the store and no silence.
const MAX_GAP: Duration = MAX_HEARTBEAT_GAP;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn node_info(name: &str) -> NodeInfo {
    let pool = PoolInfo { template: template("shop"), target: 3, capacity: 7 };
    NodeInfo {
        id: node(name),
        address: format!("{name}.test:8080"),
        mode: "process".into(),
        pools: vec![pool],
    }
}

async fn send_heartbeat(s: &StoreFixture, name: &str) -> HeartbeatReply {
    s.store.heartbeat(&node_info(name)).await.unwrap()
}

async fn silence(s: &StoreFixture, name: &str) -> Option<Duration> {
    let all = s.store.nodes().await.unwrap();
    all.iter().find(|member| member.info.id == node(name)).map(|member| member.silence)
}

/// Lets time pass in which only node `b` sends heartbeats.
async fn only_b_sends_heartbeats(s: &StoreFixture, for_seconds: u32) {
    for _ in 0..for_seconds {
        s.advance(SECOND).await;
        send_heartbeat(s, "b").await;
    }
}

async fn counts(s: &StoreFixture, of: &str, on: &str) -> (usize, usize, usize) {
    let counts = s.store.counts(&template(of), Some(&node(on))).await.unwrap();
    (counts.warming, counts.ready, counts.assigned)
}

pub(crate) async fn a_node_that_sends_heartbeats_is_on_record_with_what_it_last_reported(s: &StoreFixture) {
    assert_eq!(s.store.nodes().await, Ok(vec![]));
    send_heartbeat(s, "b").await;
    let mut other = node_info("a");
    s.store.heartbeat(&other).await.unwrap();
    other.pools.clear();
    other.address = "[2001:db8::1]:9".into();
    let reported = s.store.heartbeat(&other).await.unwrap().nodes;
    let member = |node_info| NodeStatus { info: node_info, silence: Duration::ZERO, is_draining: false };
    assert_eq!(reported, [member(other), member(node_info("b"))]);
    assert_eq!(s.store.nodes().await, Ok(reported));
}

pub(crate) async fn the_first_heartbeat_is_marked_and_all_nodes_share_a_secret(s: &StoreFixture) {
    let (first, second, of_another_node) =
        (send_heartbeat(s, "a").await, send_heartbeat(s, "a").await, send_heartbeat(s, "b").await);
    assert_eq!((first.is_new, second.is_new, of_another_node.is_new), (true, false, true));
    assert!(first.secret.reveal().len() >= 32);
    assert_eq!((&first.secret, &first.secret), (&second.secret, &of_another_node.secret));
}

pub(crate) async fn the_silence_of_a_node_grows_while_another_sends_heartbeats(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    send_heartbeat(s, "b").await;
    only_b_sends_heartbeats(s, 4).await;
    assert_eq!(silence(s, "a").await, Some(4 * SECOND));
    assert_eq!(silence(s, "b").await, Some(Duration::ZERO));
    send_heartbeat(s, "a").await;
    assert_eq!(silence(s, "a").await, Some(Duration::ZERO));
}

pub(crate) async fn an_outage_of_the_store_does_not_count_as_silence(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    send_heartbeat(s, "b").await;
    s.advance(MAX_GAP + Duration::from_millis(1)).await;
    assert_eq!(silence(s, "a").await, Some(Duration::ZERO), "no node reaches the store");
    s.advance(60 * SECOND).await;
    send_heartbeat(s, "b").await;
    assert_eq!(silence(s, "a").await, Some(Duration::ZERO), "the node may not know that the store is back");
    assert_eq!(s.store.evict_node(&node("a"), TIMEOUT).await, Ok(vec![]));
    only_b_sends_heartbeats(s, 4).await;
    assert_eq!(silence(s, "a").await, Some(4 * SECOND), "the node has had time to notice");
}

pub(crate) async fn no_instance_of_a_draining_node_is_claimed(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    send_heartbeat(s, "b").await;
    let (on_a, on_b) = (s.add_ready("shop", "a").await, s.add_ready("shop", "b").await);
    s.store.drain(&node("a"), true).await.unwrap();
    s.store.drain(&node("a"), true).await.unwrap();
    let draining = |all: Vec<NodeStatus>| all.iter().map(|member| member.is_draining).collect::<Vec<_>>();
    assert_eq!(draining(send_heartbeat(s, "a").await.nodes), [true, false], "the draining node sees it too");
    assert_eq!(*s.granted(&new_claim()).await.id(), on_b, "its own claim does not get it either");
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
    s.store.drain(&node("a"), false).await.unwrap();
    assert_eq!(draining(s.store.nodes().await.unwrap()), [false, false]);
    assert_eq!(*s.granted(&new_claim()).await.id(), on_a);
}

pub(crate) async fn only_a_node_on_record_can_be_drained(s: &StoreFixture) {
    s.add_ready("shop", "a").await;
    for on in [true, false] {
        assert_eq!(s.store.drain(&node("a"), on).await, Err(StoreError::Unknown));
    }
    s.granted(&new_claim()).await;
}

pub(crate) async fn no_instance_of_a_silent_node_is_claimed(s: &StoreFixture) {
    for name in ["a", "b", "c"] {
        send_heartbeat(s, name).await;
    }
    let (on_c, on_b) = (s.add_ready("shop", "c").await, s.add_ready("shop", "b").await);
    only_b_sends_heartbeats(s, u32::try_from(SUSPECT_AFTER.as_secs()).unwrap()).await;
    assert_eq!(*s.granted(&new_claim()).await.id(), on_c, "its heartbeat may still come");
    s.add_ready("shop", "c").await;
    s.advance(Duration::from_millis(1)).await;
    assert_eq!(
        *s.granted(&new_claim()).await.id(),
        on_b,
        "the instance that has been ready longest is on a silent node"
    );
    assert_eq!(s.claim(&new_claim()).await, Claimed::Empty);
    send_heartbeat(s, "c").await;
    s.granted(&new_claim()).await;
}

pub(crate) async fn counts_are_available_for_each_node(s: &StoreFixture) {
    for (name, how_many) in [("a", 1), ("b", 2)] {
        for _ in 0..how_many {
            s.add_warming("shop", name).await;
            s.add_ready("shop", name).await;
        }
    }
    s.add_ready("blog", "a").await;
    s.granted(&new_claim()).await;
    assert_eq!(counts(s, "shop", "a").await, (1, 0, 1));
    assert_eq!(counts(s, "shop", "b").await, (2, 2, 0));
    assert_eq!(counts(s, "shop", "c").await, (0, 0, 0));
    assert_eq!(counts(s, "blog", "a").await, (0, 1, 0));
    assert_eq!(s.counts("shop").await, (3, 2, 1));
}

pub(crate) async fn all_instances_of_a_dead_node_end_and_the_assigned_ones_are_reported(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    send_heartbeat(s, "b").await;
    let overdue = s.add_assigned().await;
    s.advance(TTL).await;
    send_heartbeat(s, "b").await;
    let (warming, assigned) = (s.add_warming("shop", "a").await, s.add_assigned().await);
    let (ready, other) = (s.add_ready("shop", "a").await, s.add_ready("blog", "b").await);
    let (_, cursor) = s.snapshot().await;
    only_b_sends_heartbeats(s, 5).await;
    let evicted = s.store.evict_node(&node("a"), TIMEOUT).await.unwrap();
    assert_eq!(ids(&evicted), [assigned.id().clone()]);
    let now = s.now().await;
    let lease = *assigned.lease().unwrap();
    assert_eq!(*evicted[0].state(), State::Expired { lease, at: now, reason: EndReason::NodeLost });
    assert_eq!(s.get(assigned.id()).await.as_ref(), Some(&evicted[0]));
    assert_eq!((s.state(&warming).await, s.state(&ready).await), ("gone", "gone"));
    assert_eq!(s.state(&other).await, "ready");
    let reported: Vec<_> = s.events(cursor).await.into_iter().map(|(_, change)| change).collect();
    assert_eq!(reported, [RouteChange::Set(evicted[0].clone())], "only assigned instances have an event");
    assert_eq!(silence(s, "a").await, None, "it is no longer on record");
    assert_eq!(counts(s, "shop", "a").await, (0, 0, 1), "the overdue instance is left to the sweep");
    assert_eq!(ids(&s.sweep().await), [overdue.id().clone()]);
    assert_eq!(s.store.evict_node(&node("a"), Duration::ZERO).await, Ok(vec![]), "twice");
    assert!(send_heartbeat(s, "a").await.is_new);
}

pub(crate) async fn a_node_whose_heartbeat_comes_in_time_keeps_its_instances(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    send_heartbeat(s, "b").await;
    let (ready, assigned) = (s.add_ready("blog", "a").await, s.add_assigned().await);
    only_b_sends_heartbeats(s, 4).await;
    s.advance(SECOND - Duration::from_millis(1)).await;
    assert_eq!(s.store.evict_node(&node("a"), TIMEOUT).await, Ok(vec![]));
    assert!(!send_heartbeat(s, "a").await.is_new);
    s.advance(SECOND).await;
    assert_eq!(s.store.evict_node(&node("a"), TIMEOUT).await, Ok(vec![]));
    assert_eq!(s.store.evict_node(&node("c"), Duration::ZERO).await, Ok(vec![]), "an unknown node");
    assert_eq!((s.state(&ready).await, s.state(assigned.id()).await), ("ready", "assigned"));
}

pub(crate) async fn all_instances_of_a_node_that_leaves_end_at_once(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    send_heartbeat(s, "b").await;
    s.store.drain(&node("a"), true).await.unwrap();
    s.add_ready("shop", "b").await;
    let assigned = s.granted(&new_claim()).await;
    let ended = s.store.evict_node(&node("b"), Duration::ZERO).await.unwrap();
    assert_eq!(ids(&ended), [assigned.id().clone()]);
    s.store.evict_node(&node("a"), Duration::ZERO).await.unwrap();
    assert_eq!(s.store.nodes().await, Ok(vec![]));
    assert!(!send_heartbeat(s, "a").await.nodes[0].is_draining, "a node that comes back is not draining");
}

pub(crate) async fn of_two_evictions_each_ended_instance_is_reported_to_one(s: &StoreFixture) {
    send_heartbeat(s, "a").await;
    let mut assigned: Vec<InstanceId> = Vec::new();
    for n in 0..400 {
        match n % 4 {
            0 => drop(s.add_ready("blog", "a").await),
            1 => drop(s.add_warming("shop", "a").await),
            _ => assigned.push(s.add_assigned().await.id().clone()),
        }
    }
    let evict = || {
        let (store, node) = (s.store.clone(), node("a"));
        try_it_now::telemetry::task::spawn(
            "test",
            async move { store.evict_node(&node, Duration::ZERO).await },
        )
    };
    let (one, other) = (evict(), evict());
    let mut reported = one.await.unwrap().unwrap();
    reported.extend(other.await.unwrap().unwrap());
    assigned.sort();
    assert_eq!(ids(&sorted(reported)), assigned);
    assert_eq!(s.store.nodes().await, Ok(vec![]));
    assert_eq!(s.counts("shop").await, (0, 0, 0));
    assert_eq!(s.counts("blog").await, (0, 0, 0));
}

pub(crate) async fn an_evicted_node_is_known_until_it_comes_back_or_is_forgotten(s: &StoreFixture) {
    let evicted = async || s.store.evicted_nodes().await.unwrap();
    for name in ["a", "b", "c", "d"] {
        send_heartbeat(s, name).await;
    }
    assert_eq!(s.store.evict_node(&node("d"), TIMEOUT).await, Ok(vec![]));
    assert_eq!(evicted().await, [], "it is not silent");
    for name in ["c", "a", "b"] {
        s.store.evict_node(&node(name), Duration::ZERO).await.unwrap();
    }
    assert_eq!(evicted().await, ["a", "b", "c"].map(node));
    send_heartbeat(s, "b").await;
    send_heartbeat(s, "d").await;
    assert_eq!(evicted().await, ["a", "c"].map(node));
    for _ in 0..2 {
        s.store.forget_evicted(&node("a")).await.unwrap();
        assert_eq!(evicted().await, [node("c")]);
    }
    // A node alone lets the time pass in which an outage would be no silence.
    s.advance(EVICTED_RETENTION + SECOND).await;
    send_heartbeat(s, "d").await;
    s.store.evict_node(&node("d"), Duration::ZERO).await.unwrap();
    assert_eq!(evicted().await, [node("d")], "the other was evicted long ago");
}
