//! Three hundred visitors who hang up at all moments of an acquire.

use std::time::Duration;

use futures_util::future::join_all;

use crate::api::delivery::{ASK, Manner, are_assigned, give_back, only_these_are_assigned, visit};
use crate::cluster::valkey::address;
use crate::support::harness::Server;
use crate::support::valkey_server::{Keeps, Server as Valkey};

const BUTTON: &str = "POST /try/default HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";

/// Aborted acquires in all, and how many at a time.
const ABORTS: usize = 300;
const AT_ONCE: usize = 15;

/// Longest time until an instance is released whose visitor may have left without reading the answer.
const DOUBT: Duration = Duration::from_secs(90);

const SIZES: [(&str, &str); 3] =
    [("POOL_TARGET_SIZE", "6"), ("POOL_MAX_SIZE", "16"), ("ACQUIRE_TIMEOUT", "10s")];

fn manner(n: usize) -> Manner {
    // Steps of a tenth of a millisecond around the time that an acquire takes, and longer ones for those who wait in line.
    let short = Duration::from_micros((n as u64 * 37) % 40 * 100);
    let long = Duration::from_millis((n as u64 * 31) % 300);
    match n % 8 {
        0 => Manner::HalfAsks,
        1 => Manner::LeavesAtOnce,
        2 | 3 => Manner::LeavesAfter(short),
        4 => Manner::LeavesAfter(long),
        5 => Manner::ClosesItsHalf(short),
        6 => Manner::ClosesItsHalf(long),
        _ => Manner::Stays,
    }
}

async fn aborted_acquires_leave_nothing(server: &Server) {
    let (mut heard, mut seen, mut got) = (0, std::collections::HashSet::new(), Vec::new());
    for round in 0..ABORTS / AT_ONCE {
        give_back(server, &got).await;
        let visits = (0..AT_ONCE).map(|n| {
            let n = round * AT_ONCE + n;
            visit(server.port, if n.is_multiple_of(3) { BUTTON } else { ASK }, manner(n))
        });
        got = join_all(visits).await.into_iter().flatten().collect();
        for id in &got {
            assert!(seen.insert(id.clone()), "{id} was handed to two");
        }
        heard += got.len();
        are_assigned(server, &got).await;
    }
    only_these_are_assigned(server, &got, DOUBT).await;
    assert!((ABORTS / 20..ABORTS * 3 / 4).contains(&heard), "{heard} heard of theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_aborted_acquires_leave_nothing_assigned_to_nobody() {
    let server = Server::start(&SIZES).await;
    aborted_acquires_leave_nothing(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_with_valkey() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let server = Server::start(&[&SIZES[..], &[("VALKEY_ADDR", &address(&valkey))]].concat()).await;
    aborted_acquires_leave_nothing(&server).await;
}
