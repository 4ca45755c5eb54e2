//! Ten thousand upgrades to apps that send first: their first message always arrives.

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::support::harness::websocket::{handshake, open, receive};
use crate::support::harness::{AcquiredInstance, RawConnection, Server, fake_upstream};

/// The number of upgrades to each of the two apps.
const SAMPLE: usize = 6_000;
const FAKE_UPSTREAM: usize = 4_000;
const CONCURRENT: usize = 64;
/// The sample app notifies its visitors of each other, so many visitors of one instance would mostly cause such messages.
const INSTANCES: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_upgrades_none_loses_the_first_message_of_its_app() {
    // The test is about the first message and not about how long a busy machine delays an app.
    let templates = fake_upstream::templates().replace("silence = \"1s\"", "silence = \"30s\"");
    let server = Server::with_file(&[("POOL_TARGET_SIZE", "8")], &templates).await.full().await;
    let mut books = Vec::new();
    for _ in 0..INSTANCES {
        books.push(server.acquire_of("book").await);
    }
    let fake = server.acquire().await;
    let start = Instant::now();
    let upgrades = (0..SAMPLE + FAKE_UPSTREAM).map(|n| {
        let (port, fake, book) = (server.port, fake.clone(), books[n % INSTANCES].clone());
        try_it_now::telemetry::task::spawn("upgrade", async move {
            // The sample app sends its first message in a packet of its own. The fake upstream sends it in the packet
            // of its 101, which is harder.
            if n < SAMPLE {
                greeted_by_the_sample_app(port, &book).await
            } else {
                greeted_at_once(port, &fake).await
            }
        })
    });
    let results: Vec<_> = futures_util::stream::iter(upgrades).buffer_unordered(CONCURRENT).collect().await;
    let lost = results.iter().filter(|result| result.is_err()).count();
    assert_eq!((results.len(), lost), (SAMPLE + FAKE_UPSTREAM, 0));
    println!("{} upgrades in {:?}", results.len(), start.elapsed());
}

async fn greeted_by_the_sample_app(port: u16, book: &AcquiredInstance) {
    let mut socket = open(RawConnection::connect(port).await, book).await;
    assert_eq!(receive(&mut socket, "hello").await["id"], book.id.as_str());
}

async fn greeted_at_once(port: u16, fake: &AcquiredInstance) {
    let mut connection = RawConnection::connect(port).await;
    assert_eq!(handshake(&mut connection, &fake.host, "/ws", "").await.status, 101);
    assert_eq!(connection.read_bytes(5).await, b"first");
}
