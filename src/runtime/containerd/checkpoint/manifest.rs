//! The manifest of a checkpoint: which files it has, what it was made of, and whether its instances share memory.
//!
//! It is stored as `manifest.json` in the checkpoint's folder, beside the folder `images` with CRIU's image files, and the
//! folder `shm` with the files of `/dev/shm`, if there were any. It is written last and atomically, so a folder without a
//! manifest is an interrupted bake.
//!
//! # Traps
//! Checkpoints outlive the program that baked them. The names of stored fields and variants stay as they are (see
//! `serde(rename)`), unless [`FORMAT`] is raised: then all checkpoints of older versions are removed and baked again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::randomness::RandomNumbers;
use super::sharing::MappedParts;
use crate::runtime::containerd::host::private_files;

/// The version of what a checkpoint contains. Raise it when this version of the program must not restore checkpoints of
/// older versions: when it shares memory in another way, when the permissions of containers are reduced, or when
/// more random number generators are reset.
const FORMAT: u32 = 10;

const MANIFEST: &str = "manifest.json";
const IMAGES: &str = "images";

/// Bytes of an image file that are read at a time for its checksum.
const READ_BUFFER: usize = 1 << 20;

/// What a checkpoint was made of. If any of it changes, the checkpoint cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Ingredients {
    /// The template's revision: its app, ready check and warm-up.
    pub(crate) revision: u64,
    /// The image, by the digest of its manifest.
    pub(crate) image: String,
    /// The running kernel's release.
    pub(crate) kernel: String,
    /// CRIU's version.
    pub(crate) criu: String,
    /// Whether the instances have user namespaces.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) user_namespace: bool,
    /// The AppArmor profile of its processes, which CRIU restores.
    #[serde(default)]
    pub(crate) apparmor: Option<String>,
}

/// The name of a checkpoint: a hash of its ingredients and [`FORMAT`], fit for a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CheckpointKey(String);

/// The size and checksum of a file of a checkpoint, to detect changes after the bake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileDigest {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// The files of shared memory that a checkpoint has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SharedFiles {
    /// Bytes that the mappings of these files cover. The files take at most that while no mapping grows.
    #[serde(rename = "room")]
    pub(super) mapped_bytes: u64,
    /// The checksums of all pages that are not zero.
    #[serde(rename = "files")]
    pub(super) digests: Vec<FileDigest>,
    /// The parts of the files that mappings cover.
    pub(super) mapped: Vec<MappedParts>,
}

/// Whether the instances of a checkpoint share memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Sharing {
    /// They share the memory in these files.
    Shared(SharedFiles),
    /// Each has its own memory, for this reason.
    #[serde(rename = "Not")]
    Private(String),
}

/// The content of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CheckpointManifest {
    format: u32,
    pub(super) template: String,
    pub(super) ingredients: Ingredients,
    files: Vec<FileDigest>,
    pub(super) sharing: Sharing,
    pub(super) random_numbers: RandomNumbers,
}

impl Ingredients {
    /// Returns the name of the checkpoint that is made of this.
    pub(crate) fn key(&self) -> CheckpointKey {
        let json = serde_json::to_vec(&(FORMAT, self)).expect("texts and numbers are JSON");
        let mut sum = Context::new(&SHA256);
        sum.update(&json);
        CheckpointKey(hex::encode(&sum.finish().as_ref()[..12]))
    }
}

impl CheckpointKey {
    /// Returns the key with this name, which [`CheckpointKey::as_str`] returned before.
    pub(crate) fn from_name(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Returns the name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl CheckpointManifest {
    /// Describes a checkpoint whose image files are all written.
    ///
    /// # Errors
    /// An image file cannot be read.
    pub(super) fn describe(
        checkpoint: &Path,
        template: String,
        ingredients: Ingredients,
        sharing: Sharing,
        random_numbers: RandomNumbers,
    ) -> io::Result<Self> {
        let images = images_dir(checkpoint);
        let mut names = fs::read_dir(&images)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<String>>>()?;
        names.sort_unstable();
        let files = names.into_iter().map(|name| digest(&images, name)).collect::<io::Result<_>>()?;
        Ok(Self { format: FORMAT, template, ingredients, files, sharing, random_numbers })
    }

    /// Stores the manifest in the checkpoint's folder, which makes the checkpoint complete.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, checkpoint: &Path) -> io::Result<()> {
        let draft = checkpoint.join("manifest.draft");
        let mut file = private_files::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(draft, checkpoint.join(MANIFEST))
    }

    /// Reads the manifest of the checkpoint in this folder, and does not read the other files.
    ///
    /// # Errors
    /// There is no manifest, it is malformed, or another version of this program wrote it.
    pub(super) fn read(checkpoint: &Path) -> io::Result<(CheckpointKey, Self)> {
        let manifest: Self = serde_json::from_slice(&fs::read(checkpoint.join(MANIFEST))?)?;
        let key = manifest.ingredients.key();
        if manifest.format != FORMAT || checkpoint.file_name().is_none_or(|name| name != key.as_str()) {
            return Err(io::Error::other("another version of this program made the checkpoint"));
        }
        Ok((key, manifest))
    }

    /// Compares every image file with its checksum.
    ///
    /// # Errors
    /// A file is missing, cannot be read or has changed.
    pub(super) fn verify(&self, checkpoint: &Path) -> io::Result<()> {
        for file in &self.files {
            if digest(&images_dir(checkpoint), file.name.clone())? != *file {
                return Err(io::Error::other(format!("the image file {} has changed", file.name)));
            }
        }
        Ok(())
    }
}

/// Returns the folder of CRIU's image files in a checkpoint's folder.
pub(super) fn images_dir(checkpoint: &Path) -> PathBuf {
    checkpoint.join(IMAGES)
}

/// Returns when a checkpoint was completed; the epoch where that is unknown.
pub(super) fn baked_at(checkpoint: &Path) -> SystemTime {
    let manifest = checkpoint.join(MANIFEST).metadata();
    manifest.and_then(|manifest| manifest.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Returns the size and checksum of an image file.
fn digest(images: &Path, name: String) -> io::Result<FileDigest> {
    let mut file = File::open(images.join(&name))?;
    let (mut sum, mut bytes) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(FileDigest { name, bytes, sha256: hex::encode(sum.finish().as_ref()) });
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ingredients() -> Ingredients {
        let text = |text: &str| text.to_owned();
        Ingredients {
            revision: 1,
            image: text("sha256:1"),
            kernel: text("6.18"),
            criu: text("4.2"),
            apparmor: None,
            user_namespace: false,
        }
    }

    #[test]
    fn every_ingredient_changes_the_key() {
        let first = ingredients();
        let others = [
            Ingredients { revision: 2, ..first.clone() },
            Ingredients { image: "sha256:2".into(), ..first.clone() },
            Ingredients { kernel: "6.19".into(), ..first.clone() },
            Ingredients { criu: "4.3".into(), ..first.clone() },
            Ingredients { user_namespace: true, ..first.clone() },
            Ingredients { apparmor: Some("profile".into()), ..first.clone() },
        ];
        assert!(others.iter().all(|other| other.key() != first.key()));
        assert_eq!(first.key(), ingredients().key());
    }

    #[test]
    fn a_manifest_of_the_same_format_is_read_whichever_version_wrote_it() {
        assert_eq!(ingredients().key().as_str(), "fa1470b02a3c3d0d89c9572e");
        let digest = json!({ "name": "1.bin", "bytes": 4096, "sha256": "00" });
        let mapped = json!({ "name": "1.bin", "parts": [[0, 8192]] });
        let stored = json!({
            "format": 6,
            "template": "shop",
            "ingredients": { "revision": 1, "image": "sha256:1", "kernel": "6.18", "criu": "4.2", "apparmor": null },
            "files": [digest],
            "sharing": { "Shared": { "room": 8192, "files": [digest], "mapped": [mapped] } },
            "random_numbers": { "openssl": 0, "wiped": 0, "may_repeat": [] },
        });
        let manifest: CheckpointManifest = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&manifest).unwrap(), stored);
        let private = Sharing::Private("why".to_owned());
        assert_eq!(serde_json::to_value(&private).unwrap(), json!({ "Not": "why" }));
    }
}
