//! Another process takes the place of the server, while clients speak HTTP/2 without TLS.

use http::Request;
use try_it_now::telemetry::task;

use super::handover::{host, start};
use super::{release, shut_down};
use crate::support::harness::{AcquiredInstance, RawConnection, eventually, get, h2_get, h2_request, h2c};

/// Such a connection has state in its process from its first bytes on, and cannot pass later.
#[tokio::test]
async fn http2_connections_that_are_open_close_without_a_lost_request_and_new_ones_wait_for_the_new_process()
{
    let Some(host) = host() else { return };
    let mut server = start(&host).await;
    let visited = server.acquire().await;
    let (open, port) = (h2c(server.port).await, server.port);
    assert_eq!(h2_get(&open, &visited.host, "/").await.status, 200);
    let mut acquiring = RawConnection::connect(port).await;
    // Its body is still on its way, so the old process cannot free the node.
    let head = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    acquiring.send(head).await;
    server.stats().await;
    server.signal("USR2");
    eventually("the open connection is closed", async || {
        let request = Request::get(format!("http://{}/", visited.host)).body(()).unwrap();
        match h2_request(&open, request).await {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                None
            }
            Err(error) => {
                assert!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error}");
                Some(())
            }
        }
    })
    .await;
    let mut waiting = Vec::new();
    for (to, path) in [(visited.host.clone(), "/"), ("localhost".to_owned(), "/health")] {
        let request = async move { h2_get(&h2c(port).await, &to, path).await.status };
        waiting.push(task::spawn("waiting", request));
    }
    assert_eq!(get(port, &visited.host, "/").await.status, 200, "HTTP/1.1 goes on");
    acquiring.send("{}").await;
    let acquired = AcquiredInstance::from_json(&acquiring.read_answer().await.json());
    server.follow_successor().await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 200);
    }
    for id in [&visited.id, &acquired.id] {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
