//! Every error on the way to an app is answered in this server's own way, never by an engine.

use crate::support::harness::{RawConnection, Server, eventually, h2_request, h2c};

#[tokio::test]
async fn what_an_engine_would_refuse_has_the_answer_of_this_server_and_is_counted() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for host in [instance.host.as_str(), "localhost"] {
        for (n, target) in ["/a<b>", "/`", "/a^b{}|", "/?a=`<>\"", "/%zz", "/\\"].into_iter().enumerate() {
            for first in [None, Some("localhost"), Some(instance.host.as_str())] {
                let mut connection = RawConnection::connect(server.port).await.after(first).await;
                let id = format!("own-{n}");
                connection
                    .send(format!(
                        "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {id}\r\n\
                         Accept: application/json\r\n\r\n"
                    ))
                    .await;
                let answer = connection.read_answer().await;
                assert!(!answer.header("x-request-id").is_empty(), "{target} {first:?}: {answer:?}");
                if answer.status == 400 {
                    answer.assert_error(400, "INVALID_REQUEST");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_host_in_two_spellings_is_one_host() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let (host, upper) = (&instance.host, instance.host.to_ascii_uppercase());
    for first in [None, Some("localhost"), Some(host.as_str())] {
        let mut connection = RawConnection::connect(server.port).await.after(first).await;
        for _ in 0..2 {
            connection.send(format!("GET http://{upper}/whoami HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            let answer = connection.read_answer().await;
            assert_eq!(answer.status, 200, "after {first:?}: {}", answer.text());
            assert_eq!(answer.json()["id"], instance.id.as_str());
        }
    }
}

#[tokio::test]
async fn connect_over_http2_has_the_answer_of_this_server_and_is_counted() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let send = h2c(server.port).await;
    for host in [instance.host.as_str(), "localhost:80"] {
        let request = http::Request::connect(host).header("x-request-id", "own-connect").body(()).unwrap();
        let answer = h2_request(&send, request).await.unwrap();
        answer.assert_error(405, "METHOD_NOT_ALLOWED");
        assert_eq!(answer.header("x-request-id"), "own-connect");
    }
    server.log_until(|line| line.contains("own-connect") && line.contains("405")).await;
    eventually("it is counted", async || {
        let metrics = server.call("GET", "/metrics", "").await.text();
        let counted = metrics.lines().any(|line| {
            line.contains("http_request_duration_seconds_count") && line.contains("status=\"405\"")
        });
        counted.then_some(())
    })
    .await;
}
