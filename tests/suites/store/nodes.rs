//! Who is there, and what becomes of what a node has that is not.

use std::time::Duration;

use try_it_now::instance::{EndReason, InstanceId, State};
use try_it_now::store::{
    Claimed, MAX_HEARTBEAT_GAP, Membership, NodeInfo, NodeStatus, PoolInfo, RouteChange, SUSPECT_AFTER,
    StoreError,
};

use super::fixture::{Stage, TTL, ids, node, sorted, template, wish};

const SECOND: Duration = Duration::from_secs(1);
/// More than this is no silence but a store that was away.
const STEP: Duration = MAX_HEARTBEAT_GAP;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn card(name: &str) -> NodeInfo {
    let pool = PoolInfo { template: template("shop"), target: 3, capacity: 7 };
    NodeInfo {
        id: node(name),
        address: format!("{name}.test:8080"),
        mode: "process".into(),
        pools: vec![pool],
    }
}

async fn heartbeat(s: &Stage, name: &str) -> Membership {
    s.store.heartbeat(&card(name)).await.unwrap()
}

async fn silent(s: &Stage, name: &str) -> Option<Duration> {
    let all = s.store.nodes().await.unwrap();
    all.iter().find(|member| member.card.id == node(name)).map(|member| member.silent)
}

/// Time passes, and of all nodes only `b` is heard.
async fn only_b_is_heard(s: &Stage, for_seconds: u32) {
    for _ in 0..for_seconds {
        s.advance(SECOND).await;
        heartbeat(s, "b").await;
    }
}

async fn counts(s: &Stage, of: &str, on: &str) -> (usize, usize, usize) {
    let counts = s.store.counts(&template(of), Some(&node(on))).await.unwrap();
    (counts.warming, counts.ready, counts.assigned)
}

pub(crate) async fn a_node_that_beats_is_on_record_with_what_it_told_last(s: &Stage) {
    assert_eq!(s.store.nodes().await, Ok(vec![]));
    heartbeat(s, "b").await;
    let mut other = card("a");
    s.store.heartbeat(&other).await.unwrap();
    other.pools.clear();
    other.address = "[2001:db8::1]:9".into();
    let told = s.store.heartbeat(&other).await.unwrap().members;
    let member = |card| NodeStatus { card, silent: Duration::ZERO, draining: false };
    assert_eq!(told, [member(other), member(card("b"))]);
    assert_eq!(s.store.nodes().await, Ok(told));
}

pub(crate) async fn the_first_beat_is_told_from_the_others_and_all_share_a_secret(s: &Stage) {
    let (first, second, of_another) =
        (heartbeat(s, "a").await, heartbeat(s, "a").await, heartbeat(s, "b").await);
    assert_eq!((first.returned, second.returned, of_another.returned), (true, false, true));
    assert!(first.secret.reveal().len() >= 32);
    assert_eq!((&first.secret, &first.secret), (&second.secret, &of_another.secret));
}

pub(crate) async fn a_nodes_silence_grows_while_others_are_heard(s: &Stage) {
    heartbeat(s, "a").await;
    heartbeat(s, "b").await;
    only_b_is_heard(s, 4).await;
    assert_eq!(silent(s, "a").await, Some(4 * SECOND));
    assert_eq!(silent(s, "b").await, Some(Duration::ZERO));
    heartbeat(s, "a").await;
    assert_eq!(silent(s, "a").await, Some(Duration::ZERO));
}

pub(crate) async fn while_the_store_was_away_nobody_was_silent(s: &Stage) {
    heartbeat(s, "a").await;
    heartbeat(s, "b").await;
    s.advance(STEP + Duration::from_millis(1)).await;
    assert_eq!(silent(s, "a").await, Some(Duration::ZERO), "nobody talks to the store");
    s.advance(60 * SECOND).await;
    heartbeat(s, "b").await;
    assert_eq!(silent(s, "a").await, Some(Duration::ZERO), "it may not have known that the store is back");
    assert_eq!(s.store.evict_node(&node("a"), TIMEOUT).await, Ok(vec![]));
    only_b_is_heard(s, 4).await;
    assert_eq!(silent(s, "a").await, Some(4 * SECOND), "but it should know by now");
}

pub(crate) async fn a_draining_node_gives_nothing_out(s: &Stage) {
    heartbeat(s, "a").await;
    heartbeat(s, "b").await;
    let (on_a, on_b) = (s.ready("shop", "a").await, s.ready("shop", "b").await);
    s.store.drain(&node("a"), true).await.unwrap();
    s.store.drain(&node("a"), true).await.unwrap();
    let draining = |all: Vec<NodeStatus>| all.iter().map(|member| member.draining).collect::<Vec<_>>();
    assert_eq!(draining(heartbeat(s, "a").await.members), [true, false], "it is told so itself");
    assert_eq!(*s.granted(&wish()).await.id(), on_b, "not even to itself");
    assert_eq!(s.claim(&wish()).await, Claimed::Empty);
    s.store.drain(&node("a"), false).await.unwrap();
    assert_eq!(draining(s.store.nodes().await.unwrap()), [false, false]);
    assert_eq!(*s.granted(&wish()).await.id(), on_a);
}

pub(crate) async fn only_a_node_on_record_is_drained(s: &Stage) {
    s.ready("shop", "a").await;
    for on in [true, false] {
        assert_eq!(s.store.drain(&node("a"), on).await, Err(StoreError::Unknown));
    }
    s.granted(&wish()).await;
}

pub(crate) async fn what_a_silent_node_has_is_given_to_nobody(s: &Stage) {
    for name in ["a", "b", "c"] {
        heartbeat(s, name).await;
    }
    let (on_c, on_b) = (s.ready("shop", "c").await, s.ready("shop", "b").await);
    only_b_is_heard(s, u32::try_from(SUSPECT_AFTER.as_secs()).unwrap()).await;
    assert_eq!(*s.granted(&wish()).await.id(), on_c, "it may be heard the next moment");
    s.ready("shop", "c").await;
    s.advance(Duration::from_millis(1)).await;
    assert_eq!(*s.granted(&wish()).await.id(), on_b, "the longest-ready is on a node that is silent");
    assert_eq!(s.claim(&wish()).await, Claimed::Empty);
    heartbeat(s, "c").await;
    s.granted(&wish()).await;
}

pub(crate) async fn counts_are_told_of_each_node_too(s: &Stage) {
    for (name, how_many) in [("a", 1), ("b", 2)] {
        for _ in 0..how_many {
            s.warming("shop", name).await;
            s.ready("shop", name).await;
        }
    }
    s.ready("blog", "a").await;
    s.granted(&wish()).await;
    assert_eq!(counts(s, "shop", "a").await, (1, 0, 1));
    assert_eq!(counts(s, "shop", "b").await, (2, 2, 0));
    assert_eq!(counts(s, "shop", "c").await, (0, 0, 0));
    assert_eq!(counts(s, "blog", "a").await, (0, 1, 0));
    assert_eq!(s.counts("shop").await, (3, 2, 1));
}

pub(crate) async fn all_that_a_dead_node_had_ends_and_visitors_are_told(s: &Stage) {
    heartbeat(s, "a").await;
    heartbeat(s, "b").await;
    let overdue = s.assigned().await;
    s.advance(TTL).await;
    heartbeat(s, "b").await;
    let (warming, had) = (s.warming("shop", "a").await, s.assigned().await);
    let (ready, other) = (s.ready("shop", "a").await, s.ready("blog", "b").await);
    let (_, cursor) = s.snapshot().await;
    only_b_is_heard(s, 5).await;
    let buried = s.store.evict_node(&node("a"), TIMEOUT).await.unwrap();
    assert_eq!(ids(&buried), [had.id().clone()]);
    let now = s.now().await;
    let lease = *had.lease().unwrap();
    assert_eq!(*buried[0].life(), State::Expired { lease, at: now, ending: EndReason::Failed });
    assert_eq!(s.get(had.id()).await.as_ref(), Some(&buried[0]));
    assert_eq!((s.state(&warming).await, s.state(&ready).await), ("gone", "gone"));
    assert_eq!(s.state(&other).await, "ready");
    let told: Vec<_> = s.events(cursor).await.into_iter().map(|(_, change)| change).collect();
    assert_eq!(told, [RouteChange::Set(buried[0].clone())], "of what visitors had, and of that only");
    assert_eq!(silent(s, "a").await, None, "it is no longer on record");
    assert_eq!(counts(s, "shop", "a").await, (0, 0, 1), "the overdue one is the sweep's");
    assert_eq!(ids(&s.sweep().await), [overdue.id().clone()]);
    assert_eq!(s.store.evict_node(&node("a"), Duration::ZERO).await, Ok(vec![]), "twice");
    assert!(heartbeat(s, "a").await.returned);
}

pub(crate) async fn a_node_that_is_heard_in_time_loses_nothing(s: &Stage) {
    heartbeat(s, "a").await;
    heartbeat(s, "b").await;
    let (ready, had) = (s.ready("blog", "a").await, s.assigned().await);
    only_b_is_heard(s, 4).await;
    s.advance(SECOND - Duration::from_millis(1)).await;
    assert_eq!(s.store.evict_node(&node("a"), TIMEOUT).await, Ok(vec![]));
    assert!(!heartbeat(s, "a").await.returned);
    s.advance(SECOND).await;
    assert_eq!(s.store.evict_node(&node("a"), TIMEOUT).await, Ok(vec![]));
    assert_eq!(s.store.evict_node(&node("c"), Duration::ZERO).await, Ok(vec![]), "nobody knows it");
    assert_eq!((s.state(&ready).await, s.state(had.id()).await), ("ready", "assigned"));
}

pub(crate) async fn a_node_that_stops_ends_what_it_has_at_once(s: &Stage) {
    heartbeat(s, "a").await;
    heartbeat(s, "b").await;
    s.store.drain(&node("a"), true).await.unwrap();
    s.ready("shop", "b").await;
    let had = s.granted(&wish()).await;
    let ended = s.store.evict_node(&node("b"), Duration::ZERO).await.unwrap();
    assert_eq!(ids(&ended), [had.id().clone()]);
    s.store.evict_node(&node("a"), Duration::ZERO).await.unwrap();
    assert_eq!(s.store.nodes().await, Ok(vec![]));
    assert!(!heartbeat(s, "a").await.members[0].draining, "whoever comes back begins anew");
}

pub(crate) async fn of_two_burials_each_end_is_told_to_one(s: &Stage) {
    heartbeat(s, "a").await;
    let mut had: Vec<InstanceId> = Vec::new();
    for n in 0..400 {
        match n % 4 {
            0 => drop(s.ready("blog", "a").await),
            1 => drop(s.warming("shop", "a").await),
            _ => had.push(s.assigned().await.id().clone()),
        }
    }
    let bury = || {
        let (store, node) = (s.store.clone(), node("a"));
        try_it_now::telemetry::task::spawn(
            "test",
            async move { store.evict_node(&node, Duration::ZERO).await },
        )
    };
    let (one, other) = (bury(), bury());
    let mut told = one.await.unwrap().unwrap();
    told.extend(other.await.unwrap().unwrap());
    had.sort();
    assert_eq!(ids(&sorted(told)), had);
    assert_eq!(s.store.nodes().await, Ok(vec![]));
    assert_eq!(s.counts("shop").await, (0, 0, 0));
    assert_eq!(s.counts("blog").await, (0, 0, 0));
}
