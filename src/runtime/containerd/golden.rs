//! Golden checkpoints on disk: for each key a folder with CRIU's images of the memory and a manifest, and in containerd
//! the committed snapshot that the memory was frozen with.
//!
//! The manifest is written last and whole, so a folder without one is an interrupted bake, and is removed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::super::host::blocking;
use crate::hex::hex;

/// Raised when a checkpoint of an older version of this program must not be restored by this one.
const FORMAT: u32 = 2;

/// Restores that may fail one after another before a checkpoint counts as bad.
const TOO_MANY: u32 = 3;

const MANIFEST: &str = "manifest.json";
const IMAGES: &str = "images";

/// What a golden checkpoint was made of. If any of it changes, it is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Ingredients {
    /// The template's revision: its app, ready check and warm-up.
    pub(super) revision: u64,
    /// The image, by the digest of its manifest.
    pub(super) image: String,
    /// The running kernel's release.
    pub(super) kernel: String,
    /// CRIU's version.
    pub(super) criu: String,
}

/// A name for the ingredients, fit for a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key(String);

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    template: String,
    ingredients: Ingredients,
    files: Vec<Frozen>,
}

/// A file as it was frozen.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Frozen {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The golden checkpoints of this node.
#[derive(Debug)]
pub(super) struct Checkpoints {
    folder: PathBuf,
    /// What is whole, and of which template.
    present: Mutex<HashMap<Key, String>>,
    /// Restores that failed, one after another.
    failures: Mutex<HashMap<Key, u32>>,
}

impl Ingredients {
    pub(super) fn key(&self) -> Key {
        let json = serde_json::to_vec(&(FORMAT, self)).expect("texts and numbers are JSON");
        let mut sum = Context::new(&SHA256);
        sum.update(&json);
        Key(hex(&sum.finish().as_ref()[..12]))
    }
}

impl Key {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Checkpoints {
    /// Takes over a folder: what is whole is present, all else is removed. Reads every file of every checkpoint, to
    /// compare its checksum.
    pub(super) async fn open(folder: PathBuf) -> io::Result<Self> {
        blocking(move || Self::take_over(folder)).await
    }

    fn take_over(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut present = HashMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            match read(&path) {
                Ok((key, template)) => {
                    present.insert(key, template);
                }
                Err(error) => {
                    tracing::info!(checkpoint = %path.display(), %error, "removing a checkpoint that is not whole");
                    fs::remove_dir_all(&path)?;
                }
            }
        }
        Ok(Self { folder, present: Mutex::new(present), failures: Mutex::default() })
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.present.lock().contains_key(key)
    }

    /// A restore of it worked.
    pub(super) fn worked(&self, key: &Key) {
        self.failures.lock().remove(key);
    }

    /// A restore of it failed. Whether that was one too many.
    pub(super) fn failed(&self, key: &Key) -> bool {
        let mut failures = self.failures.lock();
        let count = failures.entry(key.clone()).or_default();
        *count += 1;
        if *count < TOO_MANY {
            return false;
        }
        failures.remove(key);
        true
    }

    /// The keys of all that is present.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.present.lock().keys().cloned().collect()
    }

    /// Where CRIU's images of a checkpoint lie.
    pub(super) fn images(&self, key: &Key) -> PathBuf {
        self.path(key).join(IMAGES)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.0)
    }

    /// Makes the empty folder that CRIU writes to.
    pub(super) fn begin(&self, key: &Key) -> io::Result<PathBuf> {
        self.remove(key)?;
        let images = self.images(key);
        fs::create_dir_all(&images)?;
        Ok(images)
    }

    /// Declares what was written whole.
    pub(super) async fn finish(&self, template: &str, ingredients: Ingredients) -> io::Result<()> {
        let key = ingredients.key();
        let (folder, of) = (self.path(&key), template.to_owned());
        blocking(move || declare(&folder, of, ingredients)).await?;
        self.present.lock().insert(key, template.to_owned());
        Ok(())
    }

    /// Removes one, whole or not.
    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        self.present.lock().remove(key);
        match fs::remove_dir_all(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The other checkpoints of a template, which its newest replaces.
    pub(super) fn older(&self, template: &str, newest: &Key) -> Vec<Key> {
        let present = self.present.lock();
        let older = present.iter().filter(|(key, of)| of.as_str() == template && *key != newest);
        older.map(|(key, _)| key.clone()).collect()
    }
}

/// Writes the manifest of a checkpoint whose images are all there.
fn declare(folder: &Path, template: String, ingredients: Ingredients) -> io::Result<()> {
    let images = folder.join(IMAGES);
    let mut names = fs::read_dir(&images)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<String>>>()?;
    names.sort_unstable();
    let files = names.into_iter().map(|name| frozen(&images, name)).collect::<io::Result<_>>()?;
    let manifest = Manifest { format: FORMAT, template, ingredients, files };
    let draft = folder.join("manifest.draft");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
    file.sync_all()?;
    fs::rename(draft, folder.join(MANIFEST))
}

fn read(path: &Path) -> io::Result<(Key, String)> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(path.join(MANIFEST))?)?;
    let key = manifest.ingredients.key();
    if manifest.format != FORMAT || path.file_name().is_none_or(|name| name != key.as_str()) {
        return Err(io::Error::other("it was made by another version"));
    }
    for file in manifest.files {
        if frozen(&path.join(IMAGES), file.name.clone())? != file {
            return Err(io::Error::other(format!("{} is not as it was written", file.name)));
        }
    }
    Ok((key, manifest.template))
}

fn frozen(images: &Path, name: String) -> io::Result<Frozen> {
    let mut file = File::open(images.join(&name))?;
    let (mut sum, mut bytes) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Frozen { name, bytes, sha256: hex(sum.finish().as_ref()) });
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    fn ingredients(revision: u64) -> Ingredients {
        let text = |text: &str| text.to_owned();
        Ingredients { revision, image: text("sha256:1"), kernel: text("6.18"), criu: text("4.2") }
    }

    fn folder() -> PathBuf {
        std::env::temp_dir().join(format!("try-it-now-golden-{}", NodeId::random()))
    }

    async fn bake(checkpoints: &Checkpoints, revision: u64) -> Key {
        let ingredients = ingredients(revision);
        let key = ingredients.key();
        let images = checkpoints.begin(&key).unwrap();
        fs::write(images.join("pages-1.img"), b"memory").unwrap();
        checkpoints.finish("shop", ingredients).await.unwrap();
        key
    }

    #[tokio::test]
    async fn a_checkpoint_is_found_again_and_replaces_older_ones_of_its_template() {
        let folder = folder();
        let checkpoints = Checkpoints::open(folder.clone()).await.unwrap();
        let (old, new) = (bake(&checkpoints, 1).await, bake(&checkpoints, 2).await);
        assert_eq!(checkpoints.older("shop", &new), std::slice::from_ref(&old));
        assert!(checkpoints.older("blog", &new).is_empty());
        checkpoints.remove(&old).unwrap();
        let again = Checkpoints::open(folder.clone()).await.unwrap();
        assert!(again.has(&new) && !again.has(&old));
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn what_was_interrupted_or_spoilt_is_removed() {
        let folder = folder();
        let checkpoints = Checkpoints::open(folder.clone()).await.unwrap();
        let spoilt = bake(&checkpoints, 1).await;
        fs::write(checkpoints.images(&spoilt).join("pages-1.img"), b"mem0ry").unwrap();
        let interrupted = ingredients(2).key();
        checkpoints.begin(&interrupted).unwrap();
        let again = Checkpoints::open(folder.clone()).await.unwrap();
        assert!(!again.has(&spoilt) && !again.has(&interrupted));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn every_ingredient_changes_the_key() {
        let first = ingredients(1);
        let others = [
            ingredients(2),
            Ingredients { image: "sha256:2".into(), ..first.clone() },
            Ingredients { kernel: "6.19".into(), ..first.clone() },
            Ingredients { criu: "4.3".into(), ..first.clone() },
        ];
        assert!(others.iter().all(|other| other.key() != first.key()));
        assert_eq!(first.key(), ingredients(1).key());
    }
}
