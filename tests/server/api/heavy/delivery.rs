//! Three hundred clients that disconnect at different moments of an acquire.

use std::time::Duration;

use futures_util::future::join_all;

use crate::api::delivery::{
    ACQUIRE, ClientBehaviour, acquire_as, assert_assigned, release_all, wait_until_only_these_are_assigned,
};
use crate::support::harness::Server;
use crate::support::valkey_server::{Persistence, ValkeyServer};

const BUTTON: &str = "POST /try/default HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";

/// The number of aborted acquires, and how many run at the same time.
const ABORTS: usize = 300;
const CONCURRENT: usize = 15;

/// The longest time until an instance is released whose client may have left without reading the answer.
const MAX_RELEASE_DELAY: Duration = Duration::from_secs(90);

const SIZES: [(&str, &str); 3] =
    [("POOL_TARGET_SIZE", "6"), ("POOL_MAX_SIZE", "16"), ("ACQUIRE_TIMEOUT", "10s")];

fn behaviour(n: usize) -> ClientBehaviour {
    // Delays in steps of 0.1 ms around the time that an acquire takes, and longer ones for clients in the wait queue.
    let short = Duration::from_micros((n as u64 * 37) % 40 * 100);
    let long = Duration::from_millis((n as u64 * 31) % 300);
    match n % 8 {
        0 => ClientBehaviour::SendsHalfTheRequest,
        1 => ClientBehaviour::ClosesAfterTheRequest,
        2 | 3 => ClientBehaviour::ClosesAfter(short),
        4 => ClientBehaviour::ClosesAfter(long),
        5 => ClientBehaviour::HalfClosesAfter(short),
        6 => ClientBehaviour::HalfClosesAfter(long),
        _ => ClientBehaviour::ReadsTheAnswer,
    }
}

async fn aborted_acquires_leave_nothing(server: &Server) {
    let (mut answered, mut seen, mut assigned) = (0, std::collections::HashSet::new(), Vec::new());
    for round in 0..ABORTS / CONCURRENT {
        release_all(server, &assigned).await;
        let visits = (0..CONCURRENT).map(|n| {
            let n = round * CONCURRENT + n;
            acquire_as(server.port, if n.is_multiple_of(3) { BUTTON } else { ACQUIRE }, behaviour(n))
        });
        assigned = join_all(visits).await.into_iter().flatten().collect();
        for id in &assigned {
            assert!(seen.insert(id.clone()), "{id} was assigned twice");
        }
        answered += assigned.len();
        assert_assigned(server, &assigned).await;
    }
    wait_until_only_these_are_assigned(server, &assigned, MAX_RELEASE_DELAY).await;
    assert!((ABORTS / 20..ABORTS * 3 / 4).contains(&answered), "{answered} clients got an instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_aborted_acquires_leave_no_instance_assigned() {
    let server = Server::start(&SIZES).await;
    aborted_acquires_leave_nothing(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_aborted_acquires_leave_no_instance_assigned_in_valkey() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server = Server::start(&[&SIZES[..], &[("VALKEY_ADDR", &valkey.host_and_port())]].concat()).await;
    aborted_acquires_leave_nothing(&server).await;
}
