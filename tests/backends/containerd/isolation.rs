//! Instances reach neither each other nor their host.

use std::net::TcpListener;

use super::{KEEPER, Place, php, start, tell};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_reaches_itself_and_nobody_else() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let host = TcpListener::bind("0.0.0.0:0").unwrap();
    let (keeper, mut elsewhere) = (php(KEEPER), php(KEEPER));
    elsewhere.port = 8081;
    let (_, a) = start(&runtime, &keeper).await;
    let (_, b) = start(&runtime, &elsewhere).await;
    assert_eq!(tell(&runtime, b.endpoint, "add").await, "1");
    // The backlog takes the connection while the one process answers.
    assert_eq!(tell(&runtime, a.endpoint, "reach 127.0.0.1:8080").await, "reached");
    let at_host = format!("reach 127.0.0.1:{}", host.local_addr().unwrap().port());
    // An address of nobody, kept for documents, in place of all the world.
    for there in ["reach 127.0.0.1:8081", &at_host, "reach 192.0.2.1:80"] {
        let answer = tell(&runtime, a.endpoint, there).await;
        assert!(answer.starts_with("unreachable"), "{there}: {answer}");
    }
    host.set_nonblocking(true).unwrap();
    assert!(host.accept().is_err());
}
