//! The server's log lines when their reader stops.

use crate::support::harness::{RawConnection, Server, get};

/// More requests than log lines fit into the pipe and into the server's buffer.
const REQUESTS: usize = 10_000;
/// How many requests are sent before their answers are read.
const BATCH: usize = 100;

#[tokio::test]
async fn a_server_whose_log_is_not_read_serves_on_counts_the_lost_lines_and_ends() {
    let mut server = Server::start(&[]).await.full().await;
    let instance = server.acquire().await;
    server.stop_reading_log();
    let mut connection = RawConnection::connect(server.port).await;
    let requests = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(BATCH);
    for _ in 0..REQUESTS / BATCH {
        connection.send(&requests).await;
        for _ in 0..BATCH {
            assert_eq!(connection.read_answer().await.status, 200);
        }
    }
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    let metrics = get(server.port, "localhost", "/metrics").await.text();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("demo_log_lines_dropped_total "));
    assert!(lost.is_some_and(|count| count.parse::<u64>().unwrap() > 0), "{metrics}");
    drop(connection);
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().await, Some(0));
}
