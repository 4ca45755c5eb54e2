//! Reads what containerd or an archive says about an image: its digest, its layers, how to run it.

use std::fs::File;
use std::io;
use std::path::Path;

use containerd_client::services::v1::{GetImageRequest, ReadContentRequest};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::users::UserFiles;
use super::{layers, snapshots, transfer};
use crate::runtime::RuntimeError;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::client::{self, Client, ResponseExt, request};
use crate::template::random_hex;

/// Most bytes of a manifest or a configuration; registries allow 4 MiB.
const MAX_BLOB_BYTES: usize = 4 << 20;

/// An image that is unpacked in containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnpackedImage {
    /// Name in containerd.
    pub(crate) name: String,
    /// Digest of the manifest, which identifies the content whatever the name is.
    pub(crate) digest: String,
    /// Name of the snapshot of all layers.
    pub(crate) snapshot: String,
    /// How the image says it is run.
    pub(crate) config: ImageConfig,
}

/// The part of an image's configuration that this runtime uses, with the names of the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub(crate) user: String,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: String,
    /// The image's users and groups, from its layers.
    #[serde(skip)]
    pub(crate) users: UserFiles,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<ManifestPlatform>,
}

#[derive(Deserialize)]
struct ManifestPlatform {
    os: String,
    architecture: String,
}

/// An index or a manifest. A media type would tell which; the fields do so too.
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

/// Returns the digest of the only image in an OCI archive.
///
/// # Errors
/// The file cannot be read, is not an OCI archive, or does not contain exactly one image.
pub(super) async fn archive_digest(path: &Path) -> Result<String, RuntimeError> {
    let operation = format!("read the image in {}", path.display());
    let path = path.to_owned();
    let reading = move || -> io::Result<String> {
        let mut archive = tar::Archive::new(File::open(&path)?);
        // Seeks over the bulk of the archive instead of reading it.
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = entry.path()?.into_owned();
            if name.strip_prefix(".").unwrap_or(&name) != Path::new("index.json") {
                continue;
            }
            let index: Manifest = serde_json::from_reader(io::Read::take(entry, MAX_BLOB_BYTES as u64))?;
            return match index.manifests.as_slice() {
                [only] => Ok(only.digest.clone()),
                several => Err(io::Error::other(format!("it contains {} images, not one", several.len()))),
            };
        }
        Err(io::Error::other("it is not an OCI archive: it has no index.json"))
    };
    blocking(reading).await.context(|| operation)
}

/// Returns an image whose layers containerd has unpacked.
///
/// # Errors
/// containerd does not have it, has not unpacked it, or this host cannot run it.
pub(super) async fn inspect(client: &Client, node: &str, name: &str) -> Result<UnpackedImage, RuntimeError> {
    let context = || format!("look up the image {name}");
    let message = GetImageRequest { name: name.to_owned() };
    let image = client.images().get(request(message)).await.context(context)?.image;
    let target = image.and_then(|image| image.target).ok_or_else(|| unusable(name, "it has no target"))?;
    let mut digest = target.digest;
    if name.split_once('@').is_some_and(|(_, pinned)| pinned != digest) {
        return Err(unusable(name, &format!("containerd has {digest} by that name")));
    }
    let mut manifest: Manifest = read_blob(client, &digest).await?;
    if manifest.config.is_none() {
        digest = find_for_host(&manifest.manifests).ok_or_else(|| unusable(name, &wrong_platform()))?;
        manifest = read_blob(client, &digest).await?;
    }
    let config = manifest.config.ok_or_else(|| unusable(name, "its manifest names no configuration"))?;
    let configuration: Configuration = read_blob(client, &config.digest).await?;
    if !configuration.fits_host() {
        return Err(unusable(name, &wrong_platform()));
    }
    let snapshot =
        chain_id(&configuration.rootfs.diff_ids).ok_or_else(|| unusable(name, "it has no layers"))?;
    if !snapshots::exists(client, &snapshot).await? {
        return Err(unusable(name, "it is not unpacked"));
    }
    let users = read_users(client, node, &snapshot).await?;
    let config = ImageConfig { users, ..configuration.config.unwrap_or_default() };
    Ok(UnpackedImage { name: name.to_owned(), digest, snapshot, config })
}

/// Returns the users and groups in a snapshot.
async fn read_users(client: &Client, node: &str, snapshot: &str) -> Result<UserFiles, RuntimeError> {
    let random = random_hex::<8>().context(|| "name a snapshot".to_owned())?;
    let key = format!("{node}-users-{random}");
    let mounts = snapshots::view(client, node, &key, snapshot).await?;
    let reading = move || {
        let layers = layers::open_lower(&mounts)?;
        let read = |path| {
            let content = layers::read_file(&layers, path);
            let content =
                content.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
        };
        Ok(UserFiles { passwd: read("/etc/passwd")?, group: read("/etc/group")? })
    };
    let users = blocking(reading).await;
    snapshots::remove(client, &key).await?;
    users.context(|| "read the image's users".to_owned())
}

fn unusable(name: &str, why: &str) -> RuntimeError {
    RuntimeError::Start(format!("cannot use the image {name}: {why}"))
}

fn wrong_platform() -> String {
    let host = transfer::platform();
    format!("it is not for this platform, {}/{}", host.os, host.architecture)
}

impl Configuration {
    /// Returns whether this host can run it, as far as the configuration names a platform.
    fn fits_host(&self) -> bool {
        let host = transfer::platform();
        let fits = |stated: &str, wanted: &str| stated.is_empty() || stated == wanted;
        fits(&self.os, &host.os) && fits(&self.architecture, &host.architecture)
    }
}

fn find_for_host(manifests: &[Descriptor]) -> Option<String> {
    let host = transfer::platform();
    let fits = |one: &&Descriptor| {
        one.platform
            .as_ref()
            .is_none_or(|platform| platform.os == host.os && platform.architecture == host.architecture)
    };
    manifests.iter().find(fits).map(|one| one.digest.clone())
}

/// Returns the name of the snapshot of all layers, by the chaining rule of the OCI image specification.
fn chain_id(diff_ids: &[String]) -> Option<String> {
    diff_ids.iter().cloned().reduce(|chain, next| {
        let sum = digest(&SHA256, format!("{chain} {next}").as_bytes());
        format!("sha256:{}", hex::encode(sum.as_ref()))
    })
}

async fn read_blob<T: DeserializeOwned>(client: &Client, digest: &str) -> Result<T, RuntimeError> {
    let context = || format!("read {digest}");
    let message = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut parts = client.content().read(request(message)).await.context(context)?;
    let mut bytes = Vec::new();
    while let Some(part) = client::next_message(&mut parts, context).await? {
        bytes.extend_from_slice(&part.data);
        if bytes.len() > MAX_BLOB_BYTES {
            return Err(io::Error::other("too large")).context(context);
        }
    }
    serde_json::from_slice(&bytes).map_err(io::Error::from).context(context)
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
            Some(ManifestPlatform { os: os.into(), architecture: architecture.into() })
        };
        let here = transfer::platform();
        let manifests = [
            Descriptor { digest: "a".into(), platform: platform("windows", &here.architecture) },
            Descriptor { digest: "b".into(), platform: platform("linux", &here.architecture) },
        ];
        assert_eq!(find_for_host(&manifests), Some("b".to_owned()));
        assert_eq!(find_for_host(&manifests[..1]), None);
    }
}
