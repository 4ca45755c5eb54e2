//! Reads what containerd says about an image: its digest, its layers, how to run it.

use std::collections::BTreeMap;
use std::io;

use containerd_client::services::v1::{GetImageRequest, ReadContentRequest};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::health::StoredHealthCheck;
use super::users::UserFiles;
use super::{layers, snapshots, transfer};
use crate::runtime::RuntimeError;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::client::{self, Client, ResponseExt, request};
use crate::template::{App, HealthCheck, random_hex};

/// Most bytes of a manifest or a configuration; registries allow 4 MiB.
pub(super) const MAX_BLOB_BYTES: usize = 4 << 20;

/// Most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// The port of an app whose template and image name none.
const DEFAULT_PORT: u16 = 80;

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
    pub(crate) exposed_ports: Option<BTreeMap<String, Value>>,
    pub(crate) volumes: Option<BTreeMap<String, Value>>,
    pub(crate) healthcheck: Option<StoredHealthCheck>,
    pub(crate) shell: Option<Vec<String>>,
    /// The image's users and groups, from its layers.
    #[serde(skip)]
    pub(crate) users: UserFiles,
}

impl ImageConfig {
    /// Returns the port that an app of this image listens on: that of the template, else the only one that the image
    /// exposes, else 80.
    ///
    /// # Errors
    /// The template names none, and the image exposes several.
    pub(crate) fn port(&self, app: &App) -> Result<u16, RuntimeError> {
        if app.port != 0 {
            return Ok(app.port);
        }
        let exposed = self.exposed_ports.iter().flat_map(BTreeMap::keys);
        let tcp = exposed.filter_map(|port| match port.split_once('/') {
            Some((port, protocol)) => protocol.eq_ignore_ascii_case("tcp").then_some(port),
            None => Some(port.as_str()),
        });
        let mut ports: Vec<&str> = tcp.collect();
        ports.sort_unstable_by_key(|port| (port.len(), *port));
        match ports.as_slice() {
            [] => Ok(DEFAULT_PORT),
            [only] if only.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(only.parse().unwrap_or(DEFAULT_PORT))
            }
            several => Err(RuntimeError::Start(format!(
                "the image exposes {}: set port in the template to the one that serves its pages",
                several.join(", ")
            ))),
        }
    }

    /// Returns the health check that the image declares.
    pub(crate) fn health_check(&self) -> Option<HealthCheck> {
        self.healthcheck.as_ref()?.read(self.shell.as_deref())
    }
}

#[derive(Deserialize)]
pub(super) struct Descriptor {
    pub(super) digest: String,
    pub(super) platform: Option<ManifestPlatform>,
}

#[derive(Deserialize)]
pub(super) struct ManifestPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// An index or a manifest. A media type would tell which; the fields do so too.
#[derive(Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
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

/// Returns the digest of the manifest for this host. Where several variants of its architecture are named, the one that
/// every processor of the architecture runs comes first, and one for newer processors never.
pub(super) fn find_for_host(manifests: &[Descriptor]) -> Option<String> {
    let host = transfer::platform();
    let basic = match host.architecture.as_str() {
        "arm64" => "v8",
        _ => "v1",
    };
    let fits = |one: &&Descriptor| {
        one.platform.as_ref().is_none_or(|platform| {
            platform.os == host.os
                && platform.architecture == host.architecture
                && (platform.variant.is_empty() || platform.variant == basic)
        })
    };
    // An entry without a platform may be anything, so it comes last.
    let stated = manifests.iter().filter(|one| one.platform.is_some()).find(fits);
    stated.or_else(|| manifests.iter().find(fits)).map(|one| one.digest.clone())
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
            let (os, architecture, variant) = (os.into(), architecture.into(), String::new());
            Some(ManifestPlatform { os, architecture, variant })
        };
        let here = transfer::platform();
        let manifests = [
            Descriptor { digest: "a".into(), platform: platform("windows", &here.architecture) },
            Descriptor { digest: "b".into(), platform: platform("linux", &here.architecture) },
        ];
        assert_eq!(find_for_host(&manifests), Some("b".to_owned()));
        assert_eq!(find_for_host(&manifests[..1]), None);
        let mut newer = platform("linux", &here.architecture);
        newer.as_mut().unwrap().variant = "v9".to_owned();
        let mut attestation = platform("unknown", "unknown");
        attestation.as_mut().unwrap().variant.clear();
        let variants = [
            Descriptor { digest: "c".into(), platform: attestation },
            Descriptor { digest: "d".into(), platform: newer },
            Descriptor { digest: "e".into(), platform: None },
            Descriptor { digest: "f".into(), platform: platform("linux", &here.architecture) },
        ];
        assert_eq!(find_for_host(&variants), Some("f".to_owned()));
        assert_eq!(find_for_host(&variants[..3]), Some("e".to_owned()));
        assert_eq!(find_for_host(&variants[..2]), None);
    }
}
