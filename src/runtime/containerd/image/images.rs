//! The images that this server uses, each fetched once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::manifest::{UnpackedImage, inspect};
use super::{registry, transfer};
use crate::instance::NodeId;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::client::Client;
use crate::runtime::image::Archive;
use crate::runtime::{LoginFile, RuntimeError};
use crate::template::ImageRef;

/// The images that were requested so far.
#[derive(Debug)]
pub(crate) struct Images {
    /// The node that makes snapshots in containerd.
    node: String,
    logins: Option<LoginFile>,
    fetched: Mutex<HashMap<ImageRef, Arc<tokio::sync::OnceCell<Arc<UnpackedImage>>>>>,
}

impl Images {
    /// Returns an empty set of a node that pulls with the logins of this file.
    pub(crate) fn new(node: &NodeId, logins: Option<LoginFile>) -> Self {
        Self { node: node.as_str().to_owned(), logins, fetched: Mutex::default() }
    }

    /// Returns an unpacked image, and pulls or imports it first if containerd does not have it. Concurrent calls for
    /// the same image share one attempt. A failure is not remembered.
    ///
    /// # Errors
    /// The image cannot be pulled, imported, or used on this host.
    pub(crate) async fn get(
        &self,
        client: &Client,
        image: &ImageRef,
    ) -> Result<Arc<UnpackedImage>, RuntimeError> {
        let cell = self.fetched.lock().entry(image.clone()).or_default().clone();
        cell.get_or_try_init(|| async {
            fetch(client, &self.node, image, self.logins.as_ref()).await.map(Arc::new)
        })
        .await
        .cloned()
    }

    /// Returns an image that was fetched before.
    pub(crate) fn cached(&self, image: &ImageRef) -> Option<Arc<UnpackedImage>> {
        self.fetched.lock().get(image)?.get().cloned()
    }
}

async fn fetch(
    client: &Client,
    node: &str,
    image: &ImageRef,
    logins: Option<&LoginFile>,
) -> Result<UnpackedImage, RuntimeError> {
    match image {
        ImageRef::Tar(path) => {
            let opened = path.clone();
            let archive = blocking(move || Archive::open(&opened)).await;
            let Archive { digest, file } =
                archive.context(|| format!("read the image in {}", path.display()))?;
            let name = format!("{}@{digest}", transfer::ARCHIVE_IMAGE);
            if let Ok(unpacked) = inspect(client, node, &name).await {
                return Ok(unpacked);
            }
            transfer::import(client, file, path).await?;
            inspect(client, node, &name).await
        }
        ImageRef::Reference(reference) => {
            // What a digest names cannot change.
            if reference.contains('@')
                && let Ok(known) = inspect(client, node, reference).await
            {
                return Ok(known);
            }
            let pulled = registry::pull(client, reference, logins).await;
            match (pulled, inspect(client, node, reference).await) {
                (Err(error), Ok(known)) => {
                    tracing::warn!(%reference, %error, "failed to pull image; using the local one");
                    Ok(known)
                }
                (Err(error), Err(_)) => Err(error),
                (Ok(()), described) => described,
            }
        }
    }
}
