//! Settling a job that was taken.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Context, Message};
use async_trait::async_trait;

use super::parked::ParkedMessage;
use super::streams::StreamNames;
use super::{DEADLINE, publish_confirmed, unavailable, within};
use crate::clock::Millis;
use crate::cluster::queue::{Job, QueueError, Receipt};

/// The message of a job that was taken.
pub(super) struct JetStreamReceipt {
    pub(super) message: Message,
    pub(super) job: Job,
    pub(super) deliveries: u32,
    pub(super) context: Context,
    pub(super) names: StreamNames,
    pub(super) ack_wait: Duration,
}

impl JetStreamReceipt {
    /// Settles the message, and waits until the server has confirmed it.
    async fn settle(&self, kind: AckKind) -> Result<(), QueueError> {
        within(DEADLINE, async { self.message.double_ack_with(kind).await.map_err(unavailable) }).await
    }
}

#[async_trait]
impl Receipt for JetStreamReceipt {
    fn progress_interval(&self) -> Duration {
        self.ack_wait / 3
    }

    async fn progress(&self) -> Result<(), QueueError> {
        let sending = async { self.message.ack_with(AckKind::Progress).await.map_err(unavailable) };
        within(DEADLINE, sending).await
    }

    async fn done(self: Box<Self>) -> Result<(), QueueError> {
        self.settle(AckKind::Ack).await
    }

    async fn retry_later(self: Box<Self>, delay: Duration) -> Result<(), QueueError> {
        let sending = async { self.message.ack_with(AckKind::Nak(Some(delay))).await.map_err(unavailable) };
        within(DEADLINE, sending).await
    }

    async fn park(self: Box<Self>, error: &str, now: Millis) -> Result<(), QueueError> {
        let parked = ParkedMessage::new(&self.job, error, self.deliveries, now);
        let message = PublishMessage::build().payload(parked.encode().into());
        let subject = self.names.parked_subject(&self.job);
        // First: a job that is removed and not parked would be lost without a word.
        publish_confirmed(&self.context, &self.names.parked, subject, message).await?;
        self.settle(AckKind::Term).await
    }
}
