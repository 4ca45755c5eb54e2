//! Connections to containerd's gRPC services, and requests with a namespace and a deadline.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::transfer_client::TransferClient;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Response, Status, Streaming};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::runtime::RuntimeError;

/// containerd's namespace of this program. It separates its containers from those of other users of the same
/// containerd.
pub(crate) const NAMESPACE: &str = "try-it-now";

/// Longest time of a call that does not transfer images.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Longest list of tasks, which containerd sends as one message: the most that it sends
/// (`defaults.DefaultMaxSendMsgSize`).
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Most containers that are ended at the same time.
///
/// A shim that all instances share has a queue for 32 ends of processes. While it ends a container, it takes none from
/// the queue that must lock the same container, and it waits for one at the end of the queue: that of its own `runc
/// kill`. When the queue is full, it moves once a second (containerd issue 13814).
const MAX_CONCURRENT_ENDS: usize = 8;

/// Connections to containerd. Cloning is cheap. After containerd was restarted, the connection is renewed on its own.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    end_permits: Arc<Semaphore>,
}

impl Client {
    /// Connects to containerd's socket.
    ///
    /// # Errors
    /// containerd does not answer.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, RuntimeError> {
        let connecting = tokio::time::timeout(DEADLINE, containerd_client::connect(socket)).await;
        let channel = match connecting {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                return Err(RuntimeError::Start(format!(
                    "containerd does not answer at {}: {}",
                    socket.display(),
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
                )));
            }
            Err(_) => {
                return Err(RuntimeError::Start(format!(
                    "containerd at {} does not answer in time",
                    socket.display()
                )));
            }
        };
        Ok(Self { channel, end_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_ENDS)) })
    }

    /// Waits for the permission to end one container, which lasts until it is dropped.
    pub(crate) async fn end_permit(&self) -> SemaphorePermit<'_> {
        self.end_permits.acquire().await.expect("the semaphore is never closed")
    }

    pub(crate) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    pub(crate) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(crate) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }

    /// Returns a client for the records of sandboxes.
    pub(crate) fn sandboxes(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel.clone())
    }

    pub(crate) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub(crate) fn streaming(&self) -> StreamingClient<Channel> {
        StreamingClient::new(self.channel.clone())
    }

    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn transfer(&self) -> TransferClient<Channel> {
        TransferClient::new(self.channel.clone())
    }
}

/// Returns a request in this program's namespace, to be answered within [`DEADLINE`].
pub(crate) fn request<T>(message: T) -> Request<T> {
    request_with_deadline(message, DEADLINE)
}

/// Returns a request in this program's namespace, to be answered within `deadline`.
pub(crate) fn request_with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = request_without_deadline(message);
    request.set_timeout(deadline);
    request
}

/// Returns a request in this program's namespace without a deadline, for streams.
pub(crate) fn request_without_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = NAMESPACE.parse().expect("letters and dashes are valid in a header");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

/// Turns responses of containerd into results of this runtime.
pub(crate) trait ResponseExt<T> {
    /// Returns the message, or [`RuntimeError::Io`] with this operation, a verb and its object.
    fn context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError>;

    /// Returns the message, `None` if containerd does not know the object, or an error like `context`.
    fn if_found(self, operation: impl FnOnce() -> String) -> Result<Option<T>, RuntimeError>;
}

impl<T> ResponseExt<T> for Result<Response<T>, Status> {
    fn context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map(Response::into_inner).map_err(|status| failed(operation(), &status))
    }

    fn if_found(self, operation: impl FnOnce() -> String) -> Result<Option<T>, RuntimeError> {
        match self {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed(operation(), &status)),
        }
    }
}

/// Waits for the next message of a stream; `None` at its end.
///
/// # Errors
/// The stream broke.
pub(crate) async fn next_message<T>(
    stream: &mut Streaming<T>,
    context: impl FnOnce() -> String,
) -> Result<Option<T>, RuntimeError> {
    stream.message().await.map_err(|status| failed(context(), &status))
}

fn failed(operation: String, status: &Status) -> RuntimeError {
    RuntimeError::Io { operation, source: io::Error::other(status.message().to_owned()) }
}
