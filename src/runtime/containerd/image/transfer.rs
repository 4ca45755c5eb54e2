//! Transfers of images into containerd, and the import of archives through a stream.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerd_client::services::v1::{StreamInit, TransferRequest};
use containerd_client::tonic::{Response, Status, Streaming};
use containerd_client::types::Platform;
use containerd_client::types::transfer::{
    Data, ImageImportStream, ImageReference, ImageStore, UnpackConfiguration, WindowUpdate,
};
use futures_util::stream;
use prost::Message;
use prost_types::Any;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::snapshots::SNAPSHOTTER;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::client::{
    Client, DEADLINE, ResponseExt, request_with_deadline, request_without_deadline,
};
use crate::runtime::image::{HOST_OS, host_architecture};

/// Longest time of a transfer.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Most bytes of an archive in one message; containerd's own client sends as many.
const CHUNK_BYTES: usize = 32 * 1024;

/// Name in containerd of images from archives; `@` and the digest follow. Not to be changed: a newer server finds the
/// images that an older one imported.
pub(super) const ARCHIVE_IMAGE: &str = "try-it-now.local/archive";

/// Returns the platform of this host, with the names that images use.
pub(super) fn platform() -> Platform {
    Platform { os: HOST_OS.to_owned(), architecture: host_architecture().to_owned(), ..Default::default() }
}

/// Returns the destination of a transfer: the image store, where the image is unpacked.
pub(super) fn image_store(name: String, extra_references: Vec<ImageReference>) -> ImageStore {
    ImageStore {
        name,
        platforms: vec![platform()],
        extra_references,
        unpacks: vec![UnpackConfiguration {
            platform: Some(platform()),
            snapshotter: SNAPSHOTTER.to_owned(),
        }],
        ..Default::default()
    }
}

/// A stream of messages in both directions, which a transfer may use.
pub(super) struct TransferStream {
    /// The id by which containerd knows the stream.
    pub(crate) id: String,
    pub(crate) sender: mpsc::Sender<Any>,
    pub(super) incoming: Streaming<Any>,
}

/// Opens a stream. `purpose` is part of its id.
///
/// # Errors
/// containerd refuses the stream or does not answer in time.
pub(super) async fn open_stream(client: &Client, purpose: &str) -> Result<TransferStream, RuntimeError> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let context = || format!("open a stream for the {purpose}");
    let id = format!("{purpose}-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
    let (sender, receiver) = mpsc::channel(4);
    let outgoing = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Any>| {
        receiver.recv().await.map(|message| (message, receiver))
    });
    // Nothing receives before the stream is open, so the first message waits in the channel.
    let _ = sender.send(to_any(&StreamInit { id: id.clone() })).await;
    let opening = async {
        let mut incoming =
            client.streaming().stream(request_without_deadline(outgoing)).await.context(context)?;
        // containerd sends an empty message when it has registered the stream.
        let registered = incoming.message().await.ok().flatten();
        registered
            .ok_or_else(|| RuntimeError::Start(format!("containerd closed the stream for the {purpose}")))?;
        Ok(incoming)
    };
    let opened = tokio::time::timeout(DEADLINE, opening).await;
    let incoming = opened.map_err(|_| std::io::ErrorKind::TimedOut.into()).context(context)??;
    Ok(TransferStream { id, sender, incoming })
}

/// Imports an OCI archive, and unpacks its image. `archive` is its path, for errors.
///
/// # Errors
/// The file cannot be read, or containerd refuses it.
pub(crate) async fn import(client: &Client, file: std::fs::File, archive: &Path) -> Result<(), RuntimeError> {
    let context = || format!("import {}", archive.display());
    let file = tokio::fs::File::from_std(file);
    let TransferStream { id, sender, mut incoming } = open_stream(client, "archive").await?;
    let source = ImageImportStream { stream: id, ..Default::default() };
    let by_digest = ImageReference {
        name: ARCHIVE_IMAGE.to_owned(),
        is_prefix: true,
        allow_overwrite: true,
        add_digest: true,
        skip_named_digest: false,
    };
    let destination = image_store(String::new(), vec![by_digest]);

    let sending = async {
        let mut file = file;
        let mut window: i64 = 0;
        loop {
            while window <= 0 {
                // containerd ends the stream before the end of the archive when it has read all that it needs.
                let Some(update) = incoming.message().await.ok().flatten() else { return Ok(()) };
                let update = WindowUpdate::decode(update.value.as_slice()).unwrap_or_default();
                window += i64::from(update.update);
            }
            let length = usize::try_from(window).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let mut data = vec![0; length];
            let read = file.read(&mut data).await.context(|| format!("read {}", archive.display()))?;
            if read == 0 {
                drop(sender);
                // Keeps the stream open until containerd has ended it.
                while let Ok(Some(_)) = incoming.message().await {}
                return Ok(());
            }
            data.truncate(read);
            window -= read as i64;
            if sender.send(to_any(&Data { data })).await.is_err() {
                return Ok(());
            }
        }
    };
    let transferring =
        async { transfer(client, to_any(&source), to_any(&destination)).await.context(context) };
    let mut transferring = std::pin::pin!(transferring);
    tokio::select! {
        // containerd has finished, and may not have read the archive's padding.
        transferred = &mut transferring => transferred,
        sent = sending => match sent {
            Ok(()) => transferring.await,
            Err(error) => Err(error),
        },
    }
}

/// Transfers an image, which may take minutes.
///
/// # Errors
/// containerd's status.
pub(crate) async fn transfer(client: &Client, source: Any, destination: Any) -> Result<Response<()>, Status> {
    let message = TransferRequest { source: Some(source), destination: Some(destination), options: None };
    client.transfer().transfer(request_with_deadline(message, TRANSFER_DEADLINE)).await
}

pub(crate) fn to_any<T: Message + prost::Name>(message: &T) -> Any {
    containerd_client::to_any(message)
}
