//! What the queue refuses, each with the reason.

use async_nats::jetstream;
use try_it_now::cluster::queue::Queue as _;
use try_it_now::cluster::queue::jetstream::{Credentials, JetStreamQueue, report};
use try_it_now::template::Secret;

use super::{open, settings};
use crate::suites::queue::{is_empty, lane, next, provision};
use crate::support::nats_server::NatsServer;

#[tokio::test]
async fn a_stream_of_another_program_is_left_alone() {
    let Some(nats) = NatsServer::start() else { return };
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let name = "WORK".to_owned();
    let foreign = jetstream::stream::Config { name, subjects: vec!["a".to_owned()], ..Default::default() };
    context.create_stream(foreign).await.unwrap();
    let queue = JetStreamQueue::open(settings(&nats)).await.unwrap();
    assert!(queue.problem().unwrap().contains("NATS_STREAM_NAME"), "{:?}", queue.problem());
    assert!(queue.publish(&provision("shop", 1)).await.is_err());
}

#[tokio::test]
async fn a_malformed_message_is_removed_and_the_next_job_is_taken() {
    let Some(nats) = NatsServer::start() else { return };
    let queue = open(&nats).await;
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    for text in ["", "{}", "{\"version\":9}"] {
        context.publish("WORK.provision.shop", text.into()).await.unwrap().await.unwrap();
    }
    queue.publish(&provision("shop", 1)).await.unwrap();
    let mut taken = None;
    while taken.is_none() {
        taken = queue.take(&[lane("shop")], std::time::Duration::from_secs(5)).await.unwrap();
    }
    let taken = taken.unwrap();
    assert_eq!(taken.job, provision("shop", 1));
    taken.receipt.done().await.unwrap();
    assert!(is_empty(&queue, &[lane("shop")]).await);
    let begun = tokio::time::Instant::now();
    loop {
        let mut stream = context.get_stream("WORK").await.unwrap();
        if stream.info().await.unwrap().state.messages == 0 {
            break;
        }
        assert!(begun.elapsed().as_secs() < 20, "the malformed ones are removed");
    }
}

#[tokio::test]
async fn credentials_are_needed_where_the_server_asks_for_them() {
    let Some(nats) = NatsServer::start_with("authorization { user: me, password: \"p@ss\" }") else { return };
    let login = |password: &str| Some(Credentials::User("me".to_owned(), Secret::new(password)));
    let right =
        try_it_now::cluster::queue::jetstream::Settings { credentials: login("p@ss"), ..settings(&nats) };
    assert_eq!(report(&right).await.unwrap().problem, None);
    let queue: std::sync::Arc<dyn try_it_now::cluster::queue::Queue> =
        JetStreamQueue::open(right).await.unwrap();
    queue.publish(&provision("shop", 1)).await.unwrap();
    next(&queue, &[lane("shop")]).await.receipt.done().await.unwrap();
    let wrong =
        try_it_now::cluster::queue::jetstream::Settings { credentials: login("hunter2"), ..settings(&nats) };
    let error = report(&wrong).await.unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn the_report_names_the_version_and_what_is_missing() {
    let Some(nats) = NatsServer::start() else { return };
    let found = report(&settings(&nats)).await.unwrap();
    assert!(found.version.starts_with("2.") && found.problem.is_none(), "{found:?}");
    drop(nats);
}
