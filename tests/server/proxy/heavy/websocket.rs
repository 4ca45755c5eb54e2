//! Ten thousand upgrades to an app that speaks first: what it says always arrives.

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::support::harness::websocket::{handshake, hear, open};
use crate::support::harness::{Demo, Server, Wire, fake_upstream};

/// Upgrades to each of the two apps.
const SAMPLE: usize = 6_000;
const STAND_IN: usize = 4_000;
const AT_ONCE: usize = 64;
/// Visitors of one sample app are told of each other, so many in one would mostly do that.
const INSTANCES: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_upgrades_none_loses_the_first_words_of_its_app() {
    // What is tested is who speaks first, not how long a busy machine lets an app wait for its turn.
    let patient = fake_upstream::templates().replace("silence = \"1s\"", "silence = \"30s\"");
    let server = Server::with_file(&[("POOL_TARGET_SIZE", "8")], &patient).await.full().await;
    let mut books = Vec::new();
    for _ in 0..INSTANCES {
        books.push(server.acquire_of("book").await);
    }
    let odd = server.acquire().await;
    let start = Instant::now();
    let upgrades = (0..SAMPLE + STAND_IN).map(|n| {
        let (port, odd, book) = (server.port, odd.clone(), books[n % INSTANCES].clone());
        try_it_now::telemetry::task::spawn("upgrade", async move {
            // The sample app greets in a packet of its own; the other one in that of its 101, which is worse.
            if n < SAMPLE {
                greeted_by_the_sample_app(port, &book).await
            } else {
                greeted_at_once(port, &odd).await
            }
        })
    });
    let results: Vec<_> = futures_util::stream::iter(upgrades).buffer_unordered(AT_ONCE).collect().await;
    let lost = results.iter().filter(|result| result.is_err()).count();
    assert_eq!((results.len(), lost), (SAMPLE + STAND_IN, 0));
    println!("{} upgrades in {:?}", results.len(), start.elapsed());
}

async fn greeted_by_the_sample_app(port: u16, book: &Demo) {
    let mut socket = open(Wire::connect(port).await, book).await;
    assert_eq!(hear(&mut socket, "hello").await["id"], book.id.as_str());
}

async fn greeted_at_once(port: u16, odd: &Demo) {
    let mut wire = Wire::connect(port).await;
    assert_eq!(handshake(&mut wire, &odd.host, "/ws", "").await.status, 101);
    assert_eq!(wire.bytes(5).await, b"first");
}
