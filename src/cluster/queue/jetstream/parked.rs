//! The stream of parked jobs.

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use serde::{Deserialize, Serialize};

use super::{DEADLINE, JetStreamQueue, unavailable, within};
use crate::clock::Millis;
use crate::cluster::queue::{Job, MAX_SHOWN, ParkedJob, QueueError, shortened};

/// A job with its error, as the stream keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ParkedMessage {
    /// The job's own message, which has a version.
    job: String,
    error: String,
    deliveries: u32,
    parked_at: Millis,
}

impl ParkedMessage {
    pub(super) fn new(job: &Job, error: &str, deliveries: u32, parked_at: Millis) -> Self {
        let job = String::from_utf8_lossy(&job.encode()).into_owned();
        Self { job, error: shortened(error), deliveries, parked_at }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a parked job has only texts and numbers")
    }

    /// Reads a message of the stream; `None` if it is none that this program writes.
    fn read(message: &StreamMessage) -> Option<ParkedJob> {
        let parked: Self = serde_json::from_slice(&message.payload).ok()?;
        Some(ParkedJob {
            id: message.sequence,
            job: Job::decode(parked.job.as_bytes()).ok()?,
            error: shortened(&parked.error),
            deliveries: parked.deliveries,
            parked_at: parked.parked_at,
        })
    }
}

impl JetStreamQueue {
    /// See [`Queue::parked`](crate::cluster::queue::Queue::parked).
    pub(super) async fn list_parked(&self) -> Result<Vec<ParkedJob>, QueueError> {
        let (mut parked, mut next) = (Vec::new(), 1);
        let listing = async {
            let stream = self.parked_stream().await?;
            while parked.len() < MAX_SHOWN {
                let found = stream.get_first_raw_message_by_subject(self.names.all_parked(), next).await;
                let message = match found {
                    Ok(message) => message,
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                    Err(error) => return Err(unavailable(error)),
                };
                next = message.sequence + 1;
                parked.extend(ParkedMessage::read(&message));
            }
            Ok(())
        };
        within(DEADLINE, listing).await?;
        Ok(parked)
    }

    /// See [`Queue::put_back`](crate::cluster::queue::Queue::put_back).
    pub(super) async fn put_parked_back(&self, id: u64) -> Result<bool, QueueError> {
        let putting = async {
            let stream = self.parked_stream().await?;
            let message = match stream.get_raw_message(id).await {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(false),
                Err(error) => return Err(unavailable(error)),
            };
            let Some(ParkedJob { job, .. }) = ParkedMessage::read(&message) else { return Ok(false) };
            // An id of its own: that of the job may have been used within the duplicate window.
            let again = PublishMessage::build()
                .payload(job.encode().into())
                .message_id(format!("retry/{id}/{}", job.id()));
            self.publish_message(&self.names.jobs, self.names.subject(&job.lane()), again).await?;
            stream.delete_message(id).await.map_err(unavailable)?;
            Ok(true)
        };
        within(DEADLINE, putting).await
    }

    async fn parked_stream(&self) -> Result<Stream, QueueError> {
        self.context.get_stream(&self.names.parked).await.map_err(unavailable)
    }
}
