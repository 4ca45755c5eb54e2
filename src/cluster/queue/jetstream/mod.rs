//! The queue that nodes share: JetStream, the streams of NATS.
//!
//! | file | content |
//! |---|---|
//! | `connection.rs` | the connection, which is made again for ever, and the check of what it leads to |
//! | `streams.rs` | the two streams, their subjects, and the consumers |
//! | `take.rs` | taking a job: a bounded request each time |
//! | `receipt.rs` | settling a job |
//! | `parked.rs` | the second stream, with the jobs that failed |
//!
//! Traps, which the server's threads describe:
//!
//! - By default JetStream acknowledges before it syncs: after a power failure, confirmed messages are gone (nats-server
//!   7564). The configuration in `deployments/` sets `sync_interval: always`.
//! - Servers before 2.14.0 lose messages of a work queue at `max_deliver` (7817, 7845). They are refused, and the
//!   consumers here set none: deliveries are counted by the worker.
//! - A `nak` without a delay delivers the message again at once.
//! - Long-lived pull consumers stall after a reconnect. Each [`take`](super::Queue::take) makes a request of its own,
//!   which ends, and a consumer whose request failed is made again.

mod connection;
mod parked;
mod receipt;
mod streams;
mod take;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, message::PublishMessage};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{Backlog, Job, Lane, ParkedJob, Queue, QueueError, TakenJob};
pub use connection::{Credentials, ServerReport, Settings, report};
use streams::StreamNames;

/// Longest time of one request to NATS.
const DEADLINE: Duration = Duration::from_secs(2);

/// A queue in two streams of NATS.
pub struct JetStreamQueue {
    client: async_nats::Client,
    context: jetstream::Context,
    names: StreamNames,
    ack_wait: Duration,
    /// The consumers that this process has found or made.
    consumers: Mutex<HashMap<Lane, PullConsumer>>,
    /// Why the queue cannot be used.
    problem: ArcSwapOption<String>,
    /// Counts takes, so that each lane is asked first in its turn.
    takes: AtomicUsize,
}

impl JetStreamQueue {
    /// Returns an error if the queue is known not to work.
    fn check(&self) -> Result<(), QueueError> {
        match self.problem.load_full() {
            Some(problem) => Err(QueueError(String::clone(&problem))),
            None => Ok(()),
        }
    }

    /// Adds a message and waits until the server has confirmed it.
    async fn publish_message(
        &self,
        stream: &str,
        subject: String,
        message: PublishMessage,
    ) -> Result<(), QueueError> {
        self.check()?;
        publish_confirmed(&self.context, stream, subject, message).await
    }

    /// Returns the consumer of a lane, which is made if need be.
    async fn consumer(&self, lane: &Lane) -> Result<PullConsumer, QueueError> {
        if let Some(found) = self.consumers.lock().get(lane) {
            return Ok(found.clone());
        }
        let config = self.names.consumer(lane, self.ack_wait);
        let making = self.context.create_consumer_on_stream(config, &self.names.jobs);
        let made = within(DEADLINE, async { making.await.map_err(unavailable) }).await?;
        self.consumers.lock().insert(lane.clone(), made.clone());
        Ok(made)
    }

    /// Has the consumer of a lane made again: it may be gone, or another one of the same name.
    fn forget_consumer(&self, lane: &Lane) {
        self.consumers.lock().remove(lane);
    }
}

#[async_trait]
impl Queue for JetStreamQueue {
    fn is_shared(&self) -> bool {
        true
    }

    fn problem(&self) -> Option<String> {
        self.problem.load_full().map(|problem| String::clone(&problem))
    }

    async fn publish(&self, job: &Job) -> Result<(), QueueError> {
        let message = PublishMessage::build().payload(job.encode().into()).message_id(job.id());
        self.publish_message(&self.names.jobs, self.names.subject(&job.lane()), message).await
    }

    async fn backlog(&self, lane: &Lane) -> Result<Backlog, QueueError> {
        self.check()?;
        let consumer = self.consumer(lane).await?;
        let asking = async { consumer.get_info().await.map_err(unavailable) };
        match within(DEADLINE, asking).await {
            Ok(info) => Ok(Backlog {
                generation: info.delivered.stream_sequence,
                pending: usize::try_from(info.num_pending).unwrap_or(usize::MAX),
                in_progress: info.num_ack_pending,
            }),
            Err(error) => {
                self.forget_consumer(lane);
                Err(error)
            }
        }
    }

    async fn take(&self, lanes: &[Lane], wait: Duration) -> Result<Option<TakenJob>, QueueError> {
        self.check()?;
        self.take_from(lanes, wait).await
    }

    async fn parked(&self) -> Result<Vec<ParkedJob>, QueueError> {
        self.check()?;
        self.list_parked().await
    }

    async fn put_back(&self, id: u64) -> Result<bool, QueueError> {
        self.check()?;
        self.put_parked_back(id).await
    }
}

impl JetStreamQueue {
    /// Connects to the servers of `settings`, and checks them each second as long as the queue exists. Waits for the
    /// first check, at most some seconds; servers that do not answer are no error.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub async fn open(settings: Settings) -> Result<Arc<Self>, QueueError> {
        let client = connection::connect(&settings, true).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(DEADLINE);
        let queue = Arc::new(Self {
            client,
            context,
            names: StreamNames::new(&settings.stream),
            ack_wait: settings.ack_wait,
            consumers: Mutex::default(),
            problem: ArcSwapOption::from_pointee("it was not reached yet".to_owned()),
            takes: AtomicUsize::new(0),
        });
        connection::watch(&queue).await;
        Ok(queue)
    }
}

/// Describes an error of the client without what may be secret: none of its errors shows credentials.
fn unavailable(error: impl std::fmt::Display) -> QueueError {
    QueueError(error.to_string())
}

/// Adds a message to a stream, and waits until the server has confirmed it.
async fn publish_confirmed(
    context: &jetstream::Context,
    stream: &str,
    subject: String,
    message: PublishMessage,
) -> Result<(), QueueError> {
    let publishing = async {
        let sent = context.send_publish(subject, message.expected_stream(stream)).await;
        sent.map_err(unavailable)?.await.map_err(unavailable)
    };
    within(DEADLINE, publishing).await.map(drop)
}

/// Returns what `future` does within `limit`.
async fn within<T>(
    limit: Duration,
    future: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, QueueError> {
    timeout(limit, future)
        .await
        .unwrap_or_else(|_| Err(QueueError(format!("NATS did not answer within {limit:?}"))))
}
