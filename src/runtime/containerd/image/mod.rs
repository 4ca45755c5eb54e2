//! From an image's name to what a container needs of it: the snapshot to stand on, and what the image says about
//! running it.

pub(super) mod registry;
pub(super) mod snapshots;
pub(super) mod transfer;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use containerd_client::services::v1::{GetImageRequest, ReadContentRequest};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{self, Answer, Client, request};
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::{LoginFile, RuntimeError};
use crate::template::Image;

/// Most bytes of a manifest or a configuration; registries allow 4 MiB.
const MOST: usize = 4 << 20;

/// An image that is unpacked in containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Its name in containerd.
    pub(super) name: String,
    /// The digest of its manifest: what is in it, whatever it is called.
    pub(super) digest: String,
    /// The snapshot of all its layers.
    pub(super) snapshot: String,
    /// What it says about running it.
    pub(super) config: ImageConfig,
}

/// The part of an image's configuration that matters here. Names as in the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ImageConfig {
    pub(super) user: String,
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: String,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<DescribedPlatform>,
}

#[derive(Deserialize)]
struct DescribedPlatform {
    os: String,
    architecture: String,
}

/// An index or a manifest; the registry says which by a media type, and the fields tell as well.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The images that were asked for, each got once.
#[derive(Debug)]
pub(super) struct Images {
    logins: Option<LoginFile>,
    known: Mutex<HashMap<Image, Arc<tokio::sync::OnceCell<Arc<Unpacked>>>>>,
}

impl Images {
    /// None so far.
    pub(super) fn new(logins: Option<LoginFile>) -> Self {
        Self { logins, known: Mutex::default() }
    }

    /// Makes sure that the image is in containerd, and tells of it. Whoever asks for the same image meanwhile waits
    /// for the same answer; a failure is not remembered.
    pub(super) async fn get(&self, client: &Client, image: &Image) -> Result<Arc<Unpacked>, RuntimeError> {
        let cell = self.known.lock().entry(image.clone()).or_default().clone();
        cell.get_or_try_init(|| async { get(client, image, self.logins.as_ref()).await.map(Arc::new) })
            .await
            .cloned()
    }

    /// What was got before.
    pub(super) fn at_hand(&self, image: &Image) -> Option<Arc<Unpacked>> {
        self.known.lock().get(image)?.get().cloned()
    }
}

async fn get(client: &Client, image: &Image, logins: Option<&LoginFile>) -> Result<Unpacked, RuntimeError> {
    match image {
        Image::Tar(path) => {
            let digest = archived(path).await?;
            let name = format!("{}@{digest}", transfer::ARCHIVES);
            if let Ok(unpacked) = describe(client, &name).await {
                return Ok(unpacked);
            }
            transfer::import(client, path).await?;
            describe(client, &name).await
        }
        Image::Reference(reference) => {
            // What a digest names cannot change.
            if reference.contains('@')
                && let Ok(known) = describe(client, reference).await
            {
                return Ok(known);
            }
            let pulled = registry::pull(client, reference, logins).await;
            match (pulled, describe(client, reference).await) {
                (Err(error), Ok(known)) => {
                    tracing::warn!(%reference, %error, "the image could not be pulled; the one at hand is used");
                    Ok(known)
                }
                (Err(error), Err(_)) => Err(error),
                (Ok(()), described) => described,
            }
        }
    }
}

/// The digest of the one image in an archive.
async fn archived(path: &Path) -> Result<String, RuntimeError> {
    let doing = format!("read the image in {}", path.display());
    let path = path.to_owned();
    let reading = move || -> io::Result<String> {
        let mut archive = tar::Archive::new(File::open(&path)?);
        // The archive's bulk is stepped over, not read.
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = entry.path()?.into_owned();
            if name.strip_prefix(".").unwrap_or(&name) != Path::new("index.json") {
                continue;
            }
            let index: Manifest = serde_json::from_reader(io::Read::take(entry, MOST as u64))?;
            return match index.manifests.as_slice() {
                [one] => Ok(one.digest.clone()),
                others => Err(io::Error::other(format!("it holds {} images, not one", others.len()))),
            };
        }
        Err(io::Error::other("it is no OCI archive: it has no index.json"))
    };
    blocking(reading).await.doing(|| doing)
}

/// What containerd knows of an image whose layers it has unpacked.
async fn describe(client: &Client, name: &str) -> Result<Unpacked, RuntimeError> {
    let doing = || format!("look up the image {name}");
    let message = GetImageRequest { name: name.to_owned() };
    let image = client.images().get(request(message)).await.doing(doing)?.image;
    let target = image.and_then(|image| image.target).ok_or_else(|| broken(name, "it has no target"))?;
    let mut digest = target.digest;
    if name.split_once('@').is_some_and(|(_, pinned)| pinned != digest) {
        return Err(broken(name, &format!("what containerd has by that name is {digest}")));
    }
    let mut manifest: Manifest = blob(client, &digest).await?;
    if manifest.config.is_none() {
        digest = ours(&manifest.manifests).ok_or_else(|| broken(name, &elsewhere()))?;
        manifest = blob(client, &digest).await?;
    }
    let config = manifest.config.ok_or_else(|| broken(name, "its manifest names no configuration"))?;
    let configuration: Configuration = blob(client, &config.digest).await?;
    if !configuration.is_ours() {
        return Err(broken(name, &elsewhere()));
    }
    let snapshot =
        chain_id(&configuration.rootfs.diff_ids).ok_or_else(|| broken(name, "it has no layers"))?;
    if !snapshots::exists(client, &snapshot).await? {
        return Err(broken(name, "it is not unpacked"));
    }
    Ok(Unpacked { name: name.to_owned(), digest, snapshot, config: configuration.config.unwrap_or_default() })
}

fn broken(name: &str, why: &str) -> RuntimeError {
    RuntimeError::Start(format!("the image {name} cannot be used: {why}"))
}

fn elsewhere() -> String {
    let ours = transfer::platform();
    format!("it is not for this platform, {}/{}", ours.os, ours.architecture)
}

impl Configuration {
    /// Whether this host can run it, as far as it says for which it is.
    fn is_ours(&self) -> bool {
        let ours = transfer::platform();
        let fits = |said: &str, ours: &str| said.is_empty() || said == ours;
        fits(&self.os, &ours.os) && fits(&self.architecture, &ours.architecture)
    }
}

fn ours(manifests: &[Descriptor]) -> Option<String> {
    let ours = transfer::platform();
    let fits = |one: &&Descriptor| {
        one.platform
            .as_ref()
            .is_none_or(|platform| platform.os == ours.os && platform.architecture == ours.architecture)
    };
    manifests.iter().find(fits).map(|one| one.digest.clone())
}

/// The name of the snapshot of all layers, as the OCI image specification chains them.
fn chain_id(diff_ids: &[String]) -> Option<String> {
    diff_ids.iter().cloned().reduce(|chain, next| {
        let sum = digest(&SHA256, format!("{chain} {next}").as_bytes());
        format!("sha256:{}", hex::encode(sum.as_ref()))
    })
}

async fn blob<T: DeserializeOwned>(client: &Client, digest: &str) -> Result<T, RuntimeError> {
    let doing = || format!("read {digest}");
    let message = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut parts = client.content().read(request(message)).await.doing(doing)?;
    let mut bytes = Vec::new();
    while let Some(part) = client::next(&mut parts, doing).await? {
        bytes.extend_from_slice(&part.data);
        if bytes.len() > MOST {
            return Err(io::Error::other("too large")).doing(doing);
        }
    }
    serde_json::from_slice(&bytes).map_err(io::Error::from).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_chained_as_the_specification_says() {
        let id = |byte: char| format!("sha256:{}", byte.to_string().repeat(64));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[id('a')]), Some(id('a')));
        let two = chain_id(&[id('a'), id('b')]).unwrap();
        assert!(two.starts_with("sha256:") && two.len() == 71 && two != id('a'));
        assert_ne!(chain_id(&[id('b'), id('a')]).unwrap(), two);
    }

    #[test]
    fn the_manifest_of_this_platform_is_chosen() {
        let platform = |os: &str, architecture: &str| {
            Some(DescribedPlatform { os: os.into(), architecture: architecture.into() })
        };
        let here = transfer::platform();
        let manifests = [
            Descriptor { digest: "a".into(), platform: platform("windows", &here.architecture) },
            Descriptor { digest: "b".into(), platform: platform("linux", &here.architecture) },
        ];
        assert_eq!(ours(&manifests), Some("b".to_owned()));
        assert_eq!(ours(&manifests[..1]), None);
    }
}
