//! Transfers into containerd, and streaming an archive to it.

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
use crate::runtime::containerd::client::{Answer, Client, DEADLINE, lasting, request_within};

/// Longest time to get an image.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Most bytes of an archive sent in one message, which is what containerd's own client sends.
const CHUNK: usize = 32 * 1024;

/// What an image from an archive is called in containerd, followed by `@` and its digest.
pub(crate) const ARCHIVES: &str = "try-it-now.local/archive";

/// The platform of this host, as images name it.
pub(crate) fn platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), ..Default::default() }
}

/// Where an image goes, and that it is unpacked there.
pub(crate) fn store(name: String, extra_references: Vec<ImageReference>) -> ImageStore {
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

/// A way for messages both ways, which a transfer may be told of.
pub(crate) struct Stream {
    /// What containerd knows it as.
    pub(crate) id: String,
    pub(crate) sender: mpsc::Sender<Any>,
    pub(crate) incoming: Streaming<Any>,
}

/// Opens one for some purpose.
pub(crate) async fn open_stream(client: &Client, purpose: &str) -> Result<Stream, RuntimeError> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let doing = || format!("open a stream for the {purpose}");
    let id = format!("{purpose}-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
    let (sender, receiver) = mpsc::channel(4);
    let outgoing = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Any>| {
        receiver.recv().await.map(|message| (message, receiver))
    });
    // Nobody receives before the stream stands, so the first message has to wait in the channel.
    let _ = sender.send(any(&StreamInit { id: id.clone() })).await;
    let opening = async {
        let mut incoming = client.streaming().stream(lasting(outgoing)).await.doing(doing)?;
        // containerd says with an empty message that it knows the stream.
        let known = incoming.message().await.ok().flatten();
        known
            .ok_or_else(|| RuntimeError::Start(format!("containerd closed the stream for the {purpose}")))?;
        Ok(incoming)
    };
    let opened = tokio::time::timeout(DEADLINE, opening).await;
    let incoming = opened.map_err(|_| std::io::ErrorKind::TimedOut.into()).doing(doing)??;
    Ok(Stream { id, sender, incoming })
}

/// Imports an OCI archive, and unpacks its image.
pub(crate) async fn import(client: &Client, archive: &Path) -> Result<(), RuntimeError> {
    let doing = || format!("import {}", archive.display());
    let file = tokio::fs::File::open(archive).await.doing(|| format!("open {}", archive.display()))?;
    let Stream { id, sender, mut incoming } = open_stream(client, "archive").await?;
    let source = ImageImportStream { stream: id, ..Default::default() };
    let by_digest = ImageReference {
        name: ARCHIVES.to_owned(),
        is_prefix: true,
        allow_overwrite: true,
        add_digest: true,
        skip_named_digest: false,
    };
    let destination = store(String::new(), vec![by_digest]);

    let sending = async {
        let mut file = file;
        let mut window: i64 = 0;
        loop {
            while window <= 0 {
                // The stream ends before the archive does when containerd has read all it wants.
                let Some(update) = incoming.message().await.ok().flatten() else { return Ok(()) };
                let update = WindowUpdate::decode(update.value.as_slice()).unwrap_or_default();
                window += i64::from(update.update);
            }
            let most = usize::try_from(window).unwrap_or(CHUNK).min(CHUNK);
            let mut data = vec![0; most];
            let read = file.read(&mut data).await.doing(|| format!("read {}", archive.display()))?;
            if read == 0 {
                drop(sender);
                // Keeps the stream open until containerd is done with it.
                while let Ok(Some(_)) = incoming.message().await {}
                return Ok(());
            }
            data.truncate(read);
            window -= read as i64;
            if sender.send(any(&Data { data })).await.is_err() {
                return Ok(());
            }
        }
    };
    let transferring = async { transfer(client, any(&source), any(&destination)).await.doing(doing) };
    let mut transferring = std::pin::pin!(transferring);
    tokio::select! {
        // containerd has done all it was to do, and may have left the archive's padding unread.
        transferred = &mut transferring => transferred,
        sent = sending => match sent {
            Ok(()) => transferring.await,
            Err(error) => Err(error),
        },
    }
}

/// Moves an image, which may take minutes.
pub(crate) async fn transfer(client: &Client, source: Any, destination: Any) -> Result<Response<()>, Status> {
    let message = TransferRequest { source: Some(source), destination: Some(destination), options: None };
    client.transfer().transfer(request_within(message, PATIENCE)).await
}

pub(crate) fn any<T: Message + prost::Name>(message: &T) -> Any {
    containerd_client::to_any(message)
}
