//! Reads what containerd says about an image: its digest, its layers, how to run it.

use std::io;

use containerd_client::services::v1::{GetImageRequest, ReadContentRequest};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{layers, snapshots};
use crate::runtime::RuntimeError;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::client::{self, Client, ResponseExt, request};
use crate::runtime::image::{
    HOST_OS, ImageConfig, MAX_BLOB_BYTES, Manifest, UserFiles, find_for_host, host_architecture,
};
use crate::template::random_hex;

/// Most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

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
    // An index may name another one.
    for _ in 0..MAX_INDEXES {
        if manifest.config.is_some() {
            break;
        }
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
        // As with Docker, a file that cannot be read is none: then only numbers are users.
        let read = |path| match layers::read_file(&layers, path) {
            Ok(content) => String::from_utf8_lossy(&content.unwrap_or_default()).into_owned(),
            Err(error) => {
                tracing::warn!(path, %error, "failed to read users of image");
                String::new()
            }
        };
        Ok(UserFiles { passwd: read("/etc/passwd"), group: read("/etc/group") })
    };
    let users = blocking(reading).await;
    snapshots::remove(client, &key).await?;
    users.context(|| "read the image's users".to_owned())
}

fn unusable(name: &str, why: &str) -> RuntimeError {
    RuntimeError::Start(format!("cannot use the image {name}: {why}"))
}

fn wrong_platform() -> String {
    format!("it is not for this platform, {HOST_OS}/{}", host_architecture())
}

impl Configuration {
    /// Returns whether this host can run it, as far as the configuration names a platform.
    fn fits_host(&self) -> bool {
        let fits = |stated: &str, wanted: &str| stated.is_empty() || stated == wanted;
        fits(&self.os, HOST_OS) && fits(&self.architecture, host_architecture())
    }
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
}
