//! The images that this server uses, each looked up once. What the engine has is used as it is; what it lacks is pulled,
//! or loaded from an archive.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bollard::Docker;
use bollard::query_parameters::{ImportImageOptions, TagImageOptions};
use futures_util::TryStreamExt;
use parking_lot::Mutex;

use super::archive_stream;
use super::failure::{EngineContext, NOT_FOUND, said, status};
use super::pull::{self, TRANSFER_DEADLINE, Transfers};
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::image::{Archive, HOST_OS, ImageConfig, host_architecture};
use crate::runtime::{LoginFile, RuntimeError, TransferProgress};
use crate::template::ImageRef;

/// Name in the engine of images from archives; a colon and the hexadecimal digest follow.
const ARCHIVE_IMAGE: &str = "localhost/try-it-now/archive";

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EngineImage {
    /// The engine's id of the image, which names the same content for ever.
    pub(super) id: String,
    /// How the image says it is run.
    pub(super) config: ImageConfig,
}

/// The images that were requested so far.
#[derive(Debug)]
pub(super) struct Images {
    logins: Option<LoginFile>,
    known: Mutex<HashMap<ImageRef, Arc<tokio::sync::OnceCell<Arc<EngineImage>>>>>,
    transfers: Transfers,
}

impl Images {
    /// Returns an empty set that pulls with the logins of this file.
    pub(super) fn new(logins: Option<LoginFile>) -> Self {
        Self { logins, known: Mutex::default(), transfers: Transfers::default() }
    }

    /// Returns an image, and pulls or loads it first if the engine does not have it. Concurrent calls for the same
    /// image share one attempt. A failure is not remembered.
    ///
    /// # Errors
    /// The image cannot be pulled, loaded, or used on this host.
    pub(super) async fn get(
        &self,
        docker: &Docker,
        image: &ImageRef,
    ) -> Result<Arc<EngineImage>, RuntimeError> {
        let cell = self.known.lock().entry(image.clone()).or_default().clone();
        cell.get_or_try_init(|| async { self.fetch(docker, image).await.map(Arc::new) }).await.cloned()
    }

    /// Returns an image that was looked up before.
    pub(super) fn cached(&self, image: &ImageRef) -> Option<Arc<EngineImage>> {
        self.known.lock().get(image)?.get().cloned()
    }

    /// Returns how much of an image has come, while it is pulled.
    pub(super) fn transfer_of(&self, image: &ImageRef) -> Option<TransferProgress> {
        match image {
            ImageRef::Reference(reference) => self.transfers.get(reference),
            ImageRef::Tar(_) => None,
        }
    }

    /// Forgets an image, because the engine no longer has it.
    pub(super) fn forget(&self, image: &ImageRef) {
        self.known.lock().remove(image);
    }

    async fn fetch(&self, docker: &Docker, image: &ImageRef) -> Result<EngineImage, RuntimeError> {
        match image {
            ImageRef::Tar(path) => load(docker, path).await,
            ImageRef::Reference(reference) => match inspect(docker, reference).await? {
                Some(found) => Ok(found),
                None => {
                    pull::pull(docker, reference, self.logins.as_ref(), &self.transfers).await?;
                    found_or_error(inspect(docker, reference).await?, reference)
                }
            },
        }
    }
}

/// Loads an archive unless the engine has its image.
async fn load(docker: &Docker, path: &Path) -> Result<EngineImage, RuntimeError> {
    let opened = path.to_owned();
    let reading = blocking(move || {
        let mut archive = Archive::open(&opened)?;
        let tag = archive.digest.trim_start_matches("sha256:").to_owned();
        let (manifest, config) = archive.docker_manifest(&format!("{ARCHIVE_IMAGE}:{tag}"))?;
        // Engines name an image by the digest of its configuration, or of its manifest.
        Ok((tag, manifest, [config, archive.digest], archive.file))
    });
    let reading: std::io::Result<_> = reading.await;
    let (tag, manifest, ids, layout) = reading.context(|| format!("read the image in {}", path.display()))?;
    let name = format!("{ARCHIVE_IMAGE}:{tag}");
    if let Some(found) = inspect(docker, &name).await? {
        return Ok(found);
    }
    let operation = || format!("load {} into the engine", path.display());
    let body = archive_stream::with_manifest(&manifest, layout).context(operation)?;
    let patient = docker.clone().with_timeout(TRANSFER_DEADLINE);
    let loaded = patient.import_image_stream(ImportImageOptions::default(), body, None);
    let loaded: Result<Vec<_>, _> = loaded.try_collect().await;
    if let Some(why) = loaded.as_ref().err().and_then(said) {
        return Err(RuntimeError::Start(format!("the engine cannot load {}: {why}", path.display())));
    }
    loaded.engine_context(operation)?;
    if let Some(found) = inspect(docker, &name).await? {
        return Ok(found);
    }
    // An engine that reads the layout and not the manifest before it has loaded an image without a name.
    for id in ids {
        if let Some(found) = inspect(docker, &id).await? {
            let options = TagImageOptions { repo: Some(ARCHIVE_IMAGE.to_owned()), tag: Some(tag) };
            docker.tag_image(&id, Some(options)).await.engine_context(operation)?;
            return Ok(found);
        }
    }
    found_or_error(None, &path.display().to_string())
}

/// Returns what the engine says about an image; `None` if it does not have it.
///
/// # Errors
/// The engine does not answer, or the image is for another platform.
async fn inspect(docker: &Docker, name: &str) -> Result<Option<EngineImage>, RuntimeError> {
    let operation = || format!("look up the image {name}");
    let found = match docker.inspect_image(name).await {
        Err(error) if status(&error) == Some(NOT_FOUND) => return Ok(None),
        answer => answer.engine_context(operation)?,
    };
    let fits = |stated: &Option<String>, wanted: &str| {
        stated.as_deref().is_none_or(|stated| stated.is_empty() || stated == wanted)
    };
    if !fits(&found.os, HOST_OS) || !fits(&found.architecture, host_architecture()) {
        let text = format!("it is not for this platform, {HOST_OS}/{}", host_architecture());
        return Err(RuntimeError::Start(format!("cannot use the image {name}: {text}")));
    }
    let config = found.config.map(serde_json::to_value).transpose();
    let config = config.and_then(|config| serde_json::from_value(config.unwrap_or_default()));
    let config: Option<ImageConfig> = config.map_err(std::io::Error::from).context(operation)?;
    Ok(Some(EngineImage { id: found.id.unwrap_or_default(), config: config.unwrap_or_default() }))
}

fn found_or_error(found: Option<EngineImage>, name: &str) -> Result<EngineImage, RuntimeError> {
    found.ok_or_else(|| RuntimeError::Start(format!("the engine has no image {name} after it was fetched")))
}
