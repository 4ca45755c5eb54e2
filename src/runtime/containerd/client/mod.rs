//! The way to containerd: its gRPC services, in a namespace of our own, each call with a deadline.

pub(super) mod exit_events;
pub(super) mod runc_options;
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

use super::super::RuntimeError;
use super::NODE_LABEL;

/// What separates our containers from those of others who use the same containerd.
pub(super) const NAMESPACE: &str = "try-it-now";

/// Longest time of a call that does not move images.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Most containers that are ended at the same time. A shim that all share queues 32 ends of processes. While it ends a
/// container it takes none from the queue that it must lock the same container for, and waits for one at the end of the
/// queue: that of its own `runc kill`. Full, the queue moves once a second (containerd issue 13814).
const MOST_ENDINGS: usize = 8;

/// Connections to containerd. Cheap to clone; it connects anew by itself after containerd was restarted.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
    endings: Arc<Semaphore>,
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, RuntimeError> {
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
                return Err(RuntimeError::Start(format!("containerd at {} is silent", socket.display())));
            }
        };
        Ok(Self { channel, endings: Arc::new(Semaphore::new(MOST_ENDINGS)) })
    }

    /// The leave to end one container, until it is dropped.
    pub(super) async fn turn_to_end(&self) -> SemaphorePermit<'_> {
        self.endings.acquire().await.expect("nobody closes it")
    }

    pub(super) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    pub(super) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    pub(super) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(super) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }

    /// The records of sandboxes.
    pub(super) fn sandboxes(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel.clone())
    }

    pub(super) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub(super) fn streaming(&self) -> StreamingClient<Channel> {
        StreamingClient::new(self.channel.clone())
    }

    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    pub(super) fn transfer(&self) -> TransferClient<Channel> {
        TransferClient::new(self.channel.clone())
    }
}

/// A call in our namespace, to be answered within [`DEADLINE`].
pub(super) fn request<T>(message: T) -> Request<T> {
    request_within(message, DEADLINE)
}

/// A call in our namespace that may take that long.
pub(super) fn request_within<T>(message: T, longest: Duration) -> Request<T> {
    let mut request = lasting(message);
    request.set_timeout(longest);
    request
}

/// A call in our namespace that lasts as long as its caller wants: a stream.
pub(super) fn lasting<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = NAMESPACE.parse().expect("letters and dashes are a header's value");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

/// What containerd answered, in our terms.
pub(super) trait Answer<T> {
    /// Says what was being done when containerd refused.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError>;

    /// `None` for what containerd does not know.
    fn if_known(self, what: impl FnOnce() -> String) -> Result<Option<T>, RuntimeError>;
}

impl<T> Answer<T> for Result<Response<T>, Status> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map(Response::into_inner).map_err(|status| failed(what(), &status))
    }

    fn if_known(self, what: impl FnOnce() -> String) -> Result<Option<T>, RuntimeError> {
        match self {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed(what(), &status)),
        }
    }
}

/// The next message of a stream; `None` at its end.
pub(super) async fn next<T>(
    stream: &mut Streaming<T>,
    doing: impl FnOnce() -> String,
) -> Result<Option<T>, RuntimeError> {
    stream.message().await.map_err(|status| failed(doing(), &status))
}

/// What picks the things of a node by their label, or with `None` those of all nodes.
pub(super) fn of_node(node: Option<&str>) -> String {
    match node {
        Some(node) => format!("labels.\"{NODE_LABEL}\"==\"{node}\""),
        None => format!("labels.\"{NODE_LABEL}\""),
    }
}

fn failed(doing: String, status: &Status) -> RuntimeError {
    RuntimeError::Io { doing, source: io::Error::other(status.message().to_owned()) }
}
