//! Answers that come gradually: complete, in order, and each part when the app sends it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::support::harness::RawConnection;

use super::super::apps::Apps;
use super::super::random::{NUMBERS_LENGTH, Random, numbers};

/// An event may be late by this, on a busy machine too.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Reads the events of a stream to its end. Returns them with their times after the head of the answer.
async fn read_events(connection: &mut RawConnection) -> Vec<(String, Duration)> {
    let head = connection.read_head().await;
    assert_eq!(head.status, 200, "{head:?}");
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(head.headers["transfer-encoding"], "chunked");
    let (begun, mut events, mut text) = (Instant::now(), Vec::new(), String::new());
    loop {
        let line = connection.read_line().await;
        let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
        text += std::str::from_utf8(&connection.read_bytes(size).await).unwrap();
        assert_eq!(connection.read_line().await, "");
        while let Some((event, rest)) = text.split_once("\n\n") {
            events.push((event.to_owned(), begun.elapsed()));
            text = rest.to_owned();
        }
        if size == 0 {
            assert_eq!(text, "", "the last event is complete");
            return events;
        }
    }
}

async fn events_of(apps: &Apps, number: u64, accept: &str, count: u64, gap: u64) {
    let (token, host) = (Random::new(number).token(), &apps.red[number as usize % 2].host);
    let mut connection = apps.connect().await;
    let path = format!("/events?count={count}&gap={gap}&token={token}");
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n")).await;
    let events = read_events(&mut connection).await;
    let texts: Vec<_> = events.iter().map(|(text, _)| text.clone()).collect();
    let expected: Vec<_> = (0..count).map(|event| format!("data: {event} {token}")).collect();
    assert_eq!(texts, expected);
    for ((_, time), event) in events.iter().zip(0..) {
        assert!(*time <= Duration::from_millis(event * gap) + MAX_DELAY, "in time: {events:?}");
    }
    // A stream that is stored before it is forwarded arrives at one moment.
    let spread = events.last().unwrap().1 - events[0].1;
    assert!(spread >= Duration::from_millis((count - 1) * gap / 2), "event by event: {events:?}");
}

pub(super) async fn events(apps: &Apps, number: u64) {
    events_of(apps, number, "Accept: text/event-stream\r\n", 8, 100).await;
}

/// The app is silent for longer than its template's `silence`, which does not hold for streams. The request does not
/// say that it is for one: the type of the answer counts.
pub(super) async fn events_after_a_silence(apps: &Apps, number: u64) {
    let accept = if number.is_multiple_of(2) { "" } else { "Accept: */*\r\n" };
    events_of(apps, number, accept, 2, 12_000).await;
}

/// A file that takes a second and a half: it comes bit by bit.
pub(super) async fn slow_file(apps: &Apps, number: u64) {
    let mut connection = apps.connect().await;
    let host = &apps.nginx[number as usize % 2].host;
    connection.send(format!("GET /slow.txt HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let head = connection.read_head().await;
    assert_eq!((head.status, head.headers["content-length"].to_str().unwrap()), (200, "1048581"));
    let begun = Instant::now();
    let start = timeout(MAX_DELAY, connection.read_bytes(1000)).await.expect("the start comes at once");
    assert_eq!(start, numbers(0, 1000));
    let at_start = begun.elapsed();
    let rest = connection.read_bytes(NUMBERS_LENGTH - 1000).await;
    assert!(rest == numbers(1000, NUMBERS_LENGTH - 1000), "the file is complete");
    assert!(begun.elapsed() - at_start >= Duration::from_millis(300), "it comes bit by bit");
}
