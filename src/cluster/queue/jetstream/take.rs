//! Taking a job. Each take is a request of its own that ends, so that none waits on what a reconnect has ended.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::{AckKind, Message};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use super::receipt::JetStreamReceipt;
use super::{DEADLINE, JetStreamQueue, unavailable, within};
use crate::cluster::queue::{Job, Lane, QueueError, TakenJob};

/// How a lane is asked for a job.
#[derive(Debug, Clone, Copy)]
enum Asking {
    /// Is there one now?
    AtOnce,
    /// One that comes within this time.
    For(Duration),
}

impl JetStreamQueue {
    /// See [`Queue::take`](crate::cluster::queue::Queue::take).
    pub(super) async fn take_from(
        &self,
        lanes: &[Lane],
        wait: Duration,
    ) -> Result<Option<TakenJob>, QueueError> {
        // What waits already is taken one by one, from another lane first each time: of several requests that are
        // answered at the same time, all but one would be undone.
        let first = self.takes.fetch_add(1, Ordering::Relaxed);
        for n in 0..lanes.len() {
            let lane = &lanes[(first + n) % lanes.len()];
            if let Some(taken) = self.ask(lane, Asking::AtOnce).await?.and_then(|it| self.read(it)) {
                return Ok(Some(taken));
            }
        }
        let mut asking: FuturesUnordered<_> =
            lanes.iter().map(|lane| self.ask(lane, Asking::For(wait))).collect();
        let mut taken = None;
        while let Some(answer) = asking.next().await {
            taken = answer?.and_then(|message| self.read(message));
            if taken.is_some() {
                break;
            }
        }
        // The server forgets the other requests, whose answers would reach no subscription. An answer that has come
        // is given back at once.
        while let Some(Some(Ok(Some(message)))) = futures_util::FutureExt::now_or_never(asking.next()) {
            message.ack_with(AckKind::Nak(None)).await.map_err(unavailable)?;
        }
        Ok(taken)
    }

    /// Asks one lane for a message. After a failure, which may be that the consumer is gone, it is made again.
    async fn ask(&self, lane: &Lane, asking: Asking) -> Result<Option<Message>, QueueError> {
        let answer = self.request(lane, asking).await;
        if answer.is_err() {
            self.forget_consumer(lane);
        }
        answer
    }

    async fn request(&self, lane: &Lane, asking: Asking) -> Result<Option<Message>, QueueError> {
        let consumer = self.consumer(lane).await?;
        let (begun, limit): (Result<Batch, _>, _) = match asking {
            Asking::AtOnce => {
                // With a time the server would wait for a message.
                let messages = consumer.fetch().max_messages(1).messages();
                (within(DEADLINE, async { messages.await.map_err(unavailable) }).await, DEADLINE)
            }
            Asking::For(wait) => {
                let messages = consumer.batch().max_messages(1).expires(wait).messages();
                (within(DEADLINE, async { messages.await.map_err(unavailable) }).await, wait + DEADLINE)
            }
        };
        let mut batch = begun?;
        match timeout(limit, batch.next()).await {
            Ok(Some(Ok(message))) => Ok(Some(message)),
            Ok(Some(Err(error))) => Err(unavailable(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(QueueError("NATS did not answer a request for a job in time".to_owned())),
        }
    }

    /// Reads a message. One that is no job is removed and logged.
    fn read(&self, message: Message) -> Option<TakenJob> {
        let deliveries = message.info().map(|info| u32::try_from(info.delivered).unwrap_or(u32::MAX));
        let deliveries = deliveries.unwrap_or(1);
        match Job::decode(&message.payload) {
            Ok(job) => {
                let receipt = Box::new(JetStreamReceipt {
                    message,
                    job: job.clone(),
                    deliveries,
                    context: self.context.clone(),
                    names: self.names.clone(),
                    ack_wait: self.ack_wait,
                });
                Some(TakenJob { job, deliveries, receipt })
            }
            Err(error) => {
                tracing::warn!(subject = %message.subject, %error, "malformed job removed from queue");
                let removing = async move { message.double_ack_with(AckKind::Term).await };
                crate::telemetry::task::spawn("queue remove", timeout(DEADLINE, removing));
                None
            }
        }
    }
}
