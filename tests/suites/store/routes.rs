//! The stream of route events that proxies follow, and the snapshots that they begin with.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use try_it_now::instance::{Instance, RETENTION};
use try_it_now::store::{Cursor, RouteChange, RouteEvents};
use try_it_now::telemetry::task::spawn;

use super::fixture::{HOUR, MINUTE, StoreFixture, TTL, WAKE_UP_TIMEOUT, ids, new_claim};

fn changes(events: Vec<(Cursor, RouteChange)>) -> Vec<RouteChange> {
    events.into_iter().map(|(_, change)| change).collect()
}

pub(crate) async fn the_stream_has_each_change_of_an_assigned_instance_in_order(s: &StoreFixture) {
    let one = s.add_assigned().await;
    let longer = s.extend(one.id(), MINUTE, HOUR).await.unwrap();
    let two = s.add_assigned().await;
    let (_, gone_at) = s.store.release(one.id()).await.unwrap();
    let three = s.add_assigned().await;
    s.store.fail(three.id()).await.unwrap();
    let failed = s.get(three.id()).await.unwrap();
    s.advance(TTL).await;
    let over = s.sweep().await.remove(0);
    s.advance(RETENTION).await;
    s.sweep().await;
    let events = s.events(Cursor(0)).await;
    assert_eq!(events[3].0, gone_at, "a release returns the cursor of its event");
    let cursors: Vec<_> = events.iter().map(|(at, _)| *at).collect();
    assert!(cursors[0] == Cursor(1) && cursors.is_sorted_by(|a, b| a < b), "{cursors:?}");
    let mut seen = changes(events);
    let mut forgotten = seen.split_off(7);
    forgotten.sort_by_key(|change| *change == RouteChange::Gone(three.id().clone()));
    let gone = |it: &Instance| RouteChange::Gone(it.id().clone());
    assert_eq!(forgotten, [gone(&two), gone(&three)]);
    let id = one.id().clone();
    let set = [one, longer, two, three, failed, over].map(RouteChange::Set);
    let [one, longer, two, three, failed, over] = set;
    assert_eq!(seen, [one, longer, two, RouteChange::Gone(id), three, failed, over]);
}

pub(crate) async fn the_stream_has_no_event_of_an_unassigned_instance(s: &StoreFixture) {
    let (_, start) = s.store.routes().await.unwrap();
    let (one, two) = (s.add_warming("shop", "a").await, s.add_ready("shop", "a").await);
    s.store.fail(&one).await.unwrap();
    s.store.retire(&two).await.unwrap();
    assert_eq!(s.events(start).await, []);
}

pub(crate) async fn the_stream_can_be_followed_from_any_cursor(s: &StoreFixture) {
    for _ in 0..5 {
        let it = s.add_assigned().await;
        s.extend(it.id(), MINUTE, HOUR).await.unwrap();
    }
    let all = s.events(Cursor(0)).await;
    assert_eq!(all.len(), 10);
    for (n, (cursor, _)) in all.iter().enumerate() {
        assert_eq!(s.events(*cursor).await, all[n + 1..]);
    }
}

pub(crate) async fn a_wait_without_a_change_returns_no_events(s: &StoreFixture) {
    s.add_assigned().await;
    let (_, end) = s.store.routes().await.unwrap();
    let nothing = Ok(RouteEvents::Changes(Vec::new()));
    assert_eq!(s.store.route_events(end, Duration::ZERO).await, nothing);
    assert_eq!(s.store.route_events(end, Duration::from_millis(30)).await, nothing);
}

pub(crate) async fn a_waiting_follower_is_woken(s: &StoreFixture) {
    let (_, end) = s.store.routes().await.unwrap();
    let mut followers: Vec<_> = (0..3).map(|_| s.store.route_events(end, WAKE_UP_TIMEOUT)).collect();
    for follower in &mut followers {
        assert!(futures_util::poll!(follower).is_pending(), "there is no event yet");
    }
    let it = s.add_assigned().await;
    for follower in followers {
        let Ok(RouteEvents::Changes(events)) = timeout(WAKE_UP_TIMEOUT / 2, follower).await.unwrap() else {
            panic!("a gap")
        };
        assert_eq!(changes(events), [RouteChange::Set(it.clone())]);
    }
}

/// Each event is made only after the one before was received, so one lost wake-up stops the test.
pub(crate) async fn no_wake_up_is_lost(s: &StoreFixture) {
    let it = s.add_assigned().await;
    let (_, mut cursor) = s.store.routes().await.unwrap();
    let (received, mut receiver) = mpsc::unbounded_channel();
    let store = s.store.clone();
    let follower = spawn("follower", async move {
        loop {
            match store.route_events(cursor, WAKE_UP_TIMEOUT).await {
                Ok(RouteEvents::Changes(events)) if !events.is_empty() => {
                    cursor = events[events.len() - 1].0;
                    if received.send(events.len()).is_err() {
                        return;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    });
    for _ in 0..1_000 {
        s.extend(it.id(), Duration::ZERO, HOUR).await.unwrap();
        assert_eq!(
            timeout(WAKE_UP_TIMEOUT / 2, receiver.recv()).await.expect("the follower was not woken"),
            Some(1)
        );
    }
    drop(receiver);
    s.extend(it.id(), Duration::ZERO, HOUR).await.unwrap();
    follower.await.unwrap();
}

pub(crate) async fn a_follower_that_stops_waiting_loses_no_event(s: &StoreFixture) {
    let (_, end) = s.store.routes().await.unwrap();
    assert!(timeout(Duration::from_millis(5), s.store.route_events(end, WAKE_UP_TIMEOUT)).await.is_err());
    let it = s.add_assigned().await;
    assert_eq!(changes(s.events(end).await), [RouteChange::Set(it)]);
}

pub(crate) async fn a_cursor_before_the_oldest_event_is_a_gap(s: &StoreFixture) {
    let it = s.add_assigned().await;
    for _ in 0..s.backend.stream_capacity() {
        s.extend(it.id(), Duration::ZERO, HOUR).await.unwrap();
    }
    let from = async |at| s.store.route_events(Cursor(at), Duration::ZERO).await.unwrap();
    assert_eq!(from(0).await, RouteEvents::Gap);
    let RouteEvents::Changes(rest) = from(1).await else {
        panic!("the stream keeps fewer events than its capacity")
    };
    assert_eq!(rest[0].0, Cursor(2));
    let (table, cursor) = s.store.routes().await.unwrap();
    assert_eq!((table, s.events(cursor).await), (vec![s.get(it.id()).await.unwrap()], vec![]));
}

pub(crate) async fn a_cursor_beyond_the_newest_event_is_a_gap(s: &StoreFixture) {
    s.add_assigned().await;
    let (_, end) = s.store.routes().await.unwrap();
    for beyond in [end.0 + 1, u64::MAX] {
        assert_eq!(
            s.store.route_events(Cursor(beyond), WAKE_UP_TIMEOUT).await,
            Ok(RouteEvents::Gap),
            "the call does not wait"
        );
    }
}

pub(crate) async fn a_snapshot_has_the_assigned_and_the_expired_instances(s: &StoreFixture) {
    assert_eq!(s.store.routes().await, Ok((Vec::new(), Cursor(0))));
    let (assigned, failed, released) =
        (s.add_assigned().await, s.add_assigned().await, s.add_assigned().await);
    s.add_warming("shop", "a").await;
    s.add_ready("blog", "b").await;
    s.store.fail(failed.id()).await.unwrap();
    s.store.release(released.id()).await.unwrap();
    let mut expected = vec![assigned.id().clone(), failed.id().clone()];
    expected.sort();
    let (table, cursor) = s.store.routes().await.unwrap();
    assert_eq!(ids(&table), expected);
    assert_eq!(cursor, Cursor(5));
}

pub(crate) async fn a_snapshot_with_its_events_equals_a_new_snapshot(s: &StoreFixture) {
    let mut tables = vec![(HashMap::new(), Cursor(0))];
    for round in 0..40 {
        let it = s.add_assigned().await;
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

pub(crate) async fn snapshots_taken_during_changes_lose_nothing(s: &StoreFixture) {
    // Three tasks make three events a round each, and the stream must keep all of them.
    let rounds = 1_500.min((s.backend.stream_capacity() - 900) / 9);
    let mut changing = Vec::new();
    for n in 0..3 {
        let (fixture, mut assigned) = (StoreFixture::new(s.backend.clone()), VecDeque::new());
        for _ in 0..200 {
            assigned.push_back(fixture.add_assigned().await);
        }
        changing.push(spawn("changes", async move {
            for round in 0..rounds {
                // The oldest instance ends and a new one begins, so that changes happen all over the table.
                let it = assigned.pop_front().unwrap();
                fixture.extend(it.id(), MINUTE, HOUR).await.unwrap();
                match (n + round) % 8 {
                    0 => drop(fixture.store.fail(it.id()).await.unwrap()),
                    _ => drop(fixture.store.release(it.id()).await.unwrap()),
                }
                fixture.add_ready("shop", "a").await;
                assigned.push_back(fixture.granted(&new_claim()).await);
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut tables = Vec::new();
    while changing.iter().any(|task| !task.is_finished()) {
        tokio::task::yield_now().await;
        let (mut table, mut cursor) = s.snapshot().await;
        // The table is exactly the one at its cursor: each following event applies to it.
        for (at, change) in s.events(cursor).await {
            cursor = at;
            match change {
                RouteChange::Set(record) => {
                    let generation = record.generation();
                    let before = table.insert(record.id().clone(), record);
                    assert!(before.is_none_or(|before| before.generation() + 1 == generation));
                }
                RouteChange::Gone(id) => assert!(table.remove(&id).is_some(), "{id} was not in the table"),
            }
        }
        tables.push((table, cursor));
    }
    for task in changing {
        timeout(WAKE_UP_TIMEOUT, task).await.unwrap().unwrap();
    }
    assert!(!tables.is_empty(), "no snapshot was taken during the changes");
    let (new, end) = s.snapshot().await;
    for (mut table, mut cursor) in tables {
        s.follow(&mut table, &mut cursor).await;
        assert_eq!((&table, cursor), (&new, end));
    }
}
