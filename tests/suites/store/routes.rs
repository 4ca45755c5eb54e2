//! What the proxies are told.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use try_it_now::instance::{Instance, RETENTION};
use try_it_now::store::{Cursor, RouteChange, RouteEvents};
use try_it_now::telemetry::task::spawn;

use super::fixture::{HOUR, LONG, MINUTE, Stage, TTL, ids, wish};

fn changes(events: Vec<(Cursor, RouteChange)>) -> Vec<RouteChange> {
    events.into_iter().map(|(_, change)| change).collect()
}

pub(crate) async fn the_stream_tells_each_change_of_an_assigned_instance_in_order(s: &Stage) {
    let one = s.assigned().await;
    let longer = s.extend(one.id(), MINUTE, HOUR).await.unwrap();
    let two = s.assigned().await;
    let (_, gone_at) = s.store.release(one.id()).await.unwrap();
    let three = s.assigned().await;
    s.store.fail(three.id()).await.unwrap();
    let failed = s.get(three.id()).await.unwrap();
    s.advance(TTL).await;
    let over = s.sweep().await.remove(0);
    s.advance(RETENTION).await;
    s.sweep().await;
    let events = s.events(Cursor(0)).await;
    assert_eq!(events[3].0, gone_at, "a release tells where its event is");
    let cursors: Vec<_> = events.iter().map(|(at, _)| *at).collect();
    assert!(cursors[0] == Cursor(1) && cursors.is_sorted_by(|a, b| a < b), "{cursors:?}");
    let mut told = changes(events);
    let mut forgotten = told.split_off(7);
    forgotten.sort_by_key(|change| *change == RouteChange::Gone(three.id().clone()));
    let gone = |it: &Instance| RouteChange::Gone(it.id().clone());
    assert_eq!(forgotten, [gone(&two), gone(&three)]);
    let id = one.id().clone();
    let set = [one, longer, two, three, failed, over].map(RouteChange::Set);
    let [one, longer, two, three, failed, over] = set;
    assert_eq!(told, [one, longer, two, RouteChange::Gone(id), three, failed, over]);
}

pub(crate) async fn the_stream_is_silent_about_what_no_visitor_has(s: &Stage) {
    let (_, start) = s.store.routes().await.unwrap();
    let (one, two) = (s.warming("shop", "a").await, s.ready("shop", "a").await);
    s.store.fail(&one).await.unwrap();
    s.store.retire(&two).await.unwrap();
    assert_eq!(s.events(start).await, []);
}

pub(crate) async fn the_stream_can_be_followed_from_any_place(s: &Stage) {
    for _ in 0..5 {
        let it = s.assigned().await;
        s.extend(it.id(), MINUTE, HOUR).await.unwrap();
    }
    let all = s.events(Cursor(0)).await;
    assert_eq!(all.len(), 10);
    for (n, (cursor, _)) in all.iter().enumerate() {
        assert_eq!(s.events(*cursor).await, all[n + 1..]);
    }
}

pub(crate) async fn a_wait_without_news_ends_empty(s: &Stage) {
    s.assigned().await;
    let (_, end) = s.store.routes().await.unwrap();
    let nothing = Ok(RouteEvents::Changes(Vec::new()));
    assert_eq!(s.store.route_events(end, Duration::ZERO).await, nothing);
    assert_eq!(s.store.route_events(end, Duration::from_millis(30)).await, nothing);
}

pub(crate) async fn a_waiting_follower_is_woken(s: &Stage) {
    let (_, end) = s.store.routes().await.unwrap();
    let mut followers: Vec<_> = (0..3).map(|_| s.store.route_events(end, LONG)).collect();
    for follower in &mut followers {
        assert!(futures_util::poll!(follower).is_pending(), "there is nothing to tell yet");
    }
    let it = s.assigned().await;
    for follower in followers {
        let Ok(RouteEvents::Changes(events)) = timeout(LONG / 2, follower).await.unwrap() else {
            panic!("a gap")
        };
        assert_eq!(changes(events), [RouteChange::Set(it.clone())]);
    }
}

/// Each event is made only after the one before was heard, so a lost wake-up stops everything.
pub(crate) async fn no_wake_up_is_lost(s: &Stage) {
    let it = s.assigned().await;
    let (_, mut cursor) = s.store.routes().await.unwrap();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let store = s.store.clone();
    let follower = spawn("follower", async move {
        loop {
            match store.route_events(cursor, LONG).await {
                Ok(RouteEvents::Changes(events)) if !events.is_empty() => {
                    cursor = events[events.len() - 1].0;
                    if heard.send(events.len()).is_err() {
                        return;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    });
    for _ in 0..1_000 {
        s.extend(it.id(), Duration::ZERO, HOUR).await.unwrap();
        assert_eq!(timeout(LONG / 2, hears.recv()).await.expect("the follower sleeps"), Some(1));
    }
    drop(hears);
    s.extend(it.id(), Duration::ZERO, HOUR).await.unwrap();
    follower.await.unwrap();
}

pub(crate) async fn a_follower_that_gives_up_loses_nothing(s: &Stage) {
    let (_, end) = s.store.routes().await.unwrap();
    assert!(timeout(Duration::from_millis(5), s.store.route_events(end, LONG)).await.is_err());
    let it = s.assigned().await;
    assert_eq!(changes(s.events(end).await), [RouteChange::Set(it)]);
}

pub(crate) async fn a_place_that_the_stream_no_longer_holds_is_a_gap(s: &Stage) {
    let it = s.assigned().await;
    for _ in 0..s.backend.stream_capacity() {
        s.extend(it.id(), Duration::ZERO, HOUR).await.unwrap();
    }
    let from = async |at| s.store.route_events(Cursor(at), Duration::ZERO).await.unwrap();
    assert_eq!(from(0).await, RouteEvents::Gap);
    let RouteEvents::Changes(rest) = from(1).await else { panic!("the stream holds less than it says") };
    assert_eq!(rest[0].0, Cursor(2));
    let (table, cursor) = s.store.routes().await.unwrap();
    assert_eq!((table, s.events(cursor).await), (vec![s.get(it.id()).await.unwrap()], vec![]));
}

pub(crate) async fn a_place_that_the_stream_never_had_is_a_gap(s: &Stage) {
    s.assigned().await;
    let (_, end) = s.store.routes().await.unwrap();
    for beyond in [end.0 + 1, u64::MAX] {
        assert_eq!(s.store.route_events(Cursor(beyond), LONG).await, Ok(RouteEvents::Gap), "without a wait");
    }
}

pub(crate) async fn a_snapshot_has_what_proxies_must_know(s: &Stage) {
    assert_eq!(s.store.routes().await, Ok((Vec::new(), Cursor(0))));
    let (held, dead, released) = (s.assigned().await, s.assigned().await, s.assigned().await);
    s.warming("shop", "a").await;
    s.ready("blog", "b").await;
    s.store.fail(dead.id()).await.unwrap();
    s.store.release(released.id()).await.unwrap();
    let mut expected = vec![held.id().clone(), dead.id().clone()];
    expected.sort();
    let (table, cursor) = s.store.routes().await.unwrap();
    assert_eq!(ids(&table), expected);
    assert_eq!(cursor, Cursor(5));
}

pub(crate) async fn a_snapshot_followed_is_as_good_as_a_new_one(s: &Stage) {
    let mut tables = vec![(HashMap::new(), Cursor(0))];
    for round in 0..40 {
        let it = s.assigned().await;
        tables.push(s.snapshot().await);
        match round % 4 {
            0 => drop(s.store.release(it.id()).await.unwrap()),
            1 => drop(s.extend(it.id(), MINUTE, HOUR).await.unwrap()),
            2 => drop(s.store.fail(it.id()).await.unwrap()),
            _ => s.advance(MINUTE).await,
        }
        s.sweep().await;
    }
    let (new, end) = s.snapshot().await;
    for (mut table, mut cursor) in tables {
        s.follow(&mut table, &mut cursor).await;
        assert_eq!((&table, cursor), (&new, end));
    }
}

pub(crate) async fn snapshots_taken_in_the_midst_of_changes_lose_nothing(s: &Stage) {
    // Three tasks make three events a round, and the stream must hold all of them.
    let rounds = 1_500.min((s.backend.stream_capacity() - 900) / 9);
    let mut changing = Vec::new();
    for n in 0..3 {
        let (stage, mut held) = (Stage::new(s.backend.clone()), VecDeque::new());
        for _ in 0..200 {
            held.push_back(stage.assigned().await);
        }
        changing.push(spawn("changes", async move {
            for round in 0..rounds {
                // The oldest goes and a new one comes, so that changes happen all over the table.
                let it = held.pop_front().unwrap();
                stage.extend(it.id(), MINUTE, HOUR).await.unwrap();
                match (n + round) % 8 {
                    0 => drop(stage.store.fail(it.id()).await.unwrap()),
                    _ => drop(stage.store.release(it.id()).await.unwrap()),
                }
                stage.ready("shop", "a").await;
                held.push_back(stage.granted(&wish()).await);
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut tables = Vec::new();
    while changing.iter().any(|task| !task.is_finished()) {
        tokio::task::yield_now().await;
        let (mut table, mut cursor) = s.snapshot().await;
        // The table is exactly that of its cursor: what follows fits on it step by step.
        for (at, change) in s.events(cursor).await {
            cursor = at;
            match change {
                RouteChange::Set(record) => {
                    let generation = record.generation();
                    let before = table.insert(record.id().clone(), record);
                    assert!(before.is_none_or(|before| before.generation() + 1 == generation));
                }
                RouteChange::Gone(id) => assert!(table.remove(&id).is_some(), "{id} was not there"),
            }
        }
        tables.push((table, cursor));
    }
    for task in changing {
        timeout(LONG, task).await.unwrap().unwrap();
    }
    assert!(!tables.is_empty(), "no snapshot was taken meanwhile");
    let (new, end) = s.snapshot().await;
    for (mut table, mut cursor) in tables {
        s.follow(&mut table, &mut cursor).await;
        assert_eq!((&table, cursor), (&new, end));
    }
}
