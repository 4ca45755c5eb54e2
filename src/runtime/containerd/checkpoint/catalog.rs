//! Golden checkpoints on disk: for each key a folder with CRIU's images of the memory and a manifest, and in containerd
//! the committed snapshot that the memory was frozen with.
//!
//! The manifest is written last and whole, so a folder without one is an interrupted bake, and is removed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::sharing::{Evidence, NotShared, PrefaultList, Shared, SharedMemory};
use crate::runtime::Checkpoint;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::Watcher;
use crate::runtime::containerd::host::node_dir;

/// Raised when a checkpoint of an older version of this program must not be restored by this one.
const FORMAT: u32 = 5;

/// Restores that may fail one after another before a checkpoint counts as bad.
const TOO_MANY: u32 = 3;

const MANIFEST: &str = "manifest.json";
const IMAGES: &str = "images";

/// What a golden checkpoint was made of. If any of it changes, it is of no use.
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
}

/// A name for the ingredients, fit for a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Key(String);

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    template: String,
    ingredients: Ingredients,
    files: Vec<FrozenFile>,
    sharing: Sharing,
}

/// A file as it was frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrozenFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Whether a checkpoint's copies share their memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Sharing {
    /// They do.
    Shared(Shared),
    /// Each has its own, and why.
    Not(String),
}

/// What is known of a checkpoint that is whole.
#[derive(Debug)]
struct Present {
    template: String,
    sharing: Sharing,
}

/// The golden checkpoints of this node.
#[derive(Debug)]
pub(crate) struct Catalog {
    folder: PathBuf,
    /// What its copies share.
    memory: SharedMemory,
    /// What is whole.
    present: Mutex<HashMap<Key, Present>>,
    /// What was found and is not whole.
    broken: Mutex<Vec<PathBuf>>,
    /// Restores that failed, one after another.
    failures: Mutex<HashMap<Key, u32>>,
}

impl Ingredients {
    pub(crate) fn key(&self) -> Key {
        let json = serde_json::to_vec(&(FORMAT, self)).expect("texts and numbers are JSON");
        let mut sum = Context::new(&SHA256);
        sum.update(&json);
        Key(hex::encode(&sum.finish().as_ref()[..12]))
    }
}

impl Key {
    /// As it was written down.
    pub(crate) fn of(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Catalog {
    /// Takes over a folder: what is whole is present, all else is for [`Checkpoints::clean`]. Reads every file of every
    /// checkpoint, to compare its checksum.
    pub(crate) async fn open(folder: PathBuf, memory: SharedMemory) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let (mut present, mut broken) = (HashMap::new(), Vec::new());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let from = path.clone();
            let found = match blocking(move || read(&from)).await {
                Ok((key, found)) => match &found.sharing {
                    Sharing::Shared(shared) => memory.find(&key, shared).await.map(|()| (key, found)),
                    Sharing::Not(_) => Ok((key, found)),
                },
                Err(error) => Err(error),
            };
            match found {
                Ok((key, found)) => {
                    present.insert(key, found);
                }
                Err(error) => {
                    tracing::info!(checkpoint = %path.display(), %error, "removing a checkpoint that is not whole");
                    broken.push(path);
                }
            }
        }
        let (present, broken) = (Mutex::new(present), Mutex::new(broken));
        Ok(Self { folder, memory, present, broken, failures: Mutex::default() })
    }

    /// Removes what was found and is not whole. For when nobody writes to it any more.
    pub(crate) fn clean(&self) -> io::Result<()> {
        let mut broken = self.broken.lock();
        while let Some(path) = broken.last() {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => broken.pop(),
            };
        }
        self.memory.sweep()
    }

    /// What the copies of a checkpoint have as their `/dev` if they share their memory.
    pub(crate) fn devices(&self, key: &Key) -> Option<PathBuf> {
        let present = self.present.lock();
        let shared = matches!(present.get(key)?.sharing, Sharing::Shared(_));
        shared.then(|| self.memory.devices(key))
    }

    /// Whether the copies of a checkpoint share their memory, in words; `None` where there is no such checkpoint.
    pub(crate) fn sharing(&self, key: &Key) -> Option<String> {
        self.present.lock().get(key).map(|found| match &found.sharing {
            Sharing::Shared(shared) => format!("copies share {} MiB of memory", shared.bytes() >> 20),
            Sharing::Not(why) => format!("each copy has memory of its own: {why}"),
        })
    }

    /// By template, bytes that its copies have in common.
    pub(crate) fn shared(&self) -> Vec<(String, u64)> {
        let present = self.present.lock();
        present.iter().map(|(key, found)| (found.template.clone(), self.memory.held(key))).collect()
    }

    /// Moves the memory of what was frozen to where copies share it.
    pub(crate) async fn share(
        &self,
        key: &Key,
        most: u64,
        parts: bool,
        evidence: Evidence,
        watcher: &Watcher,
    ) -> Result<Shared, NotShared> {
        self.memory.share(key, self.images(key), most, parts, evidence, watcher).await
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        self.present.lock().contains_key(key)
    }

    /// A restore of it worked.
    pub(crate) fn worked(&self, key: &Key) {
        self.failures.lock().remove(key);
    }

    /// A restore of it failed. Whether that was one too many.
    pub(crate) fn failed(&self, key: &Key) -> bool {
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
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.present.lock().keys().cloned().collect()
    }

    /// Where CRIU's images of a checkpoint lie.
    pub(crate) fn images(&self, key: &Key) -> PathBuf {
        self.path(key).join(IMAGES)
    }

    /// Whether its copies share memory, and it is not known what they change of it at once.
    pub(crate) fn is_to_be_observed(&self, key: &Key) -> bool {
        self.devices(key).is_some() && !PrefaultList::is_known(&self.path(key))
    }

    /// Where what is known of a checkpoint lies.
    pub(crate) fn folder_of(&self, key: &Key) -> PathBuf {
        self.path(key)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.0)
    }

    /// Makes the empty folder that CRIU writes to.
    pub(crate) fn begin(&self, key: &Key) -> io::Result<PathBuf> {
        self.remove(key)?;
        let images = self.images(key);
        fs::create_dir_all(&images)?;
        Ok(images)
    }

    /// Declares what was written whole.
    pub(crate) async fn finish(
        &self,
        template: &str,
        ingredients: Ingredients,
        sharing: Sharing,
    ) -> io::Result<()> {
        let key = ingredients.key();
        let found = Present { template: template.to_owned(), sharing: sharing.clone() };
        let (folder, of) = (self.path(&key), template.to_owned());
        blocking(move || declare(&folder, of, ingredients, sharing)).await?;
        self.present.lock().insert(key, found);
        Ok(())
    }

    /// Removes one, whole or not.
    pub(crate) fn remove(&self, key: &Key) -> io::Result<()> {
        self.present.lock().remove(key);
        self.memory.remove(key)?;
        match fs::remove_dir_all(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The other checkpoints of a template, which its newest replaces.
    pub(crate) fn older(&self, template: &str, newest: &Key) -> Vec<Key> {
        let present = self.present.lock();
        let older = present.iter().filter(|(key, of)| of.template == template && *key != newest);
        older.map(|(key, _)| key.clone()).collect()
    }

    /// Those whose template has a newer one: the server ended before it could remove them.
    pub(crate) fn outdated(&self) -> Vec<Key> {
        let mut newest: HashMap<String, (SystemTime, Key)> = HashMap::new();
        let mut outdated = Vec::new();
        for (key, Present { template, .. }) in self.present.lock().iter() {
            let manifest = self.path(key).join(MANIFEST).metadata();
            let made = manifest.and_then(|manifest| manifest.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let one = (made, key.clone());
            match newest.get_mut(template) {
                Some(other) if other.0 < one.0 => outdated.push(std::mem::replace(other, one).1),
                Some(_) => outdated.push(one.1),
                None => drop(newest.insert(template.clone(), one)),
            }
        }
        outdated
    }
}

/// Writes the manifest of a checkpoint whose images are all there.
fn declare(folder: &Path, template: String, ingredients: Ingredients, sharing: Sharing) -> io::Result<()> {
    let images = folder.join(IMAGES);
    let mut names = fs::read_dir(&images)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<String>>>()?;
    names.sort_unstable();
    let files = names.into_iter().map(|name| frozen(&images, name)).collect::<io::Result<_>>()?;
    let manifest = Manifest { format: FORMAT, template, ingredients, files, sharing };
    let draft = folder.join("manifest.draft");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
    file.sync_all()?;
    fs::rename(draft, folder.join(MANIFEST))
}

/// The golden checkpoints in a node's folder for containers that this kernel can restore, as their manifests tell, whether
/// a server has the node or not. What is not whole is none.
///
/// # Errors
/// The folder is there and cannot be read.
pub fn baked(containers: &Path) -> io::Result<Vec<Checkpoint>> {
    let kernel = crate::runtime::containerd::kernel();
    let entries = match fs::read_dir(node_dir::checkpoints(containers)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let manifests = entries.filter_map(|entry| manifest(&entry.ok()?.path()).ok());
    let of_this_kernel = manifests.filter(|(_, manifest)| manifest.ingredients.kernel == kernel);
    let told = of_this_kernel.map(|(_, Manifest { template, ingredients, sharing, .. })| {
        let shares = match sharing {
            Sharing::Shared(shared) => Ok(shared.bytes()),
            Sharing::Not(why) => Err(why),
        };
        Checkpoint { template, revision: ingredients.revision, shares }
    });
    Ok(told.collect())
}

fn manifest(path: &Path) -> io::Result<(Key, Manifest)> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(path.join(MANIFEST))?)?;
    let key = manifest.ingredients.key();
    if manifest.format != FORMAT || path.file_name().is_none_or(|name| name != key.as_str()) {
        return Err(io::Error::other("it was made by another version"));
    }
    Ok((key, manifest))
}

fn read(path: &Path) -> io::Result<(Key, Present)> {
    let (key, manifest) = manifest(path)?;
    for file in manifest.files {
        if frozen(&path.join(IMAGES), file.name.clone())? != file {
            return Err(io::Error::other(format!("{} is not as it was written", file.name)));
        }
    }
    Ok((key, Present { template: manifest.template, sharing: manifest.sharing }))
}

fn frozen(images: &Path, name: String) -> io::Result<FrozenFile> {
    let mut file = File::open(images.join(&name))?;
    let (mut sum, mut bytes) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(FrozenFile { name, bytes, sha256: hex::encode(sum.finish().as_ref()) });
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

    async fn open(folder: &Path) -> io::Result<Catalog> {
        let root = folder.with_extension("memory");
        fs::create_dir_all(&root)?;
        Catalog::open(folder.to_owned(), SharedMemory::new(root, PathBuf::new(), 0)).await
    }

    async fn bake(checkpoints: &Catalog, revision: u64) -> Key {
        let ingredients = ingredients(revision);
        let key = ingredients.key();
        let images = checkpoints.begin(&key).unwrap();
        fs::write(images.join("pages-1.img"), b"memory").unwrap();
        checkpoints.finish("shop", ingredients, Sharing::Not(String::new())).await.unwrap();
        key
    }

    #[tokio::test]
    async fn a_checkpoint_is_found_again_and_replaces_older_ones_of_its_template() {
        let folder = folder();
        let checkpoints = open(&folder).await.unwrap();
        let (old, new) = (bake(&checkpoints, 1).await, bake(&checkpoints, 2).await);
        assert_eq!(checkpoints.older("shop", &new), std::slice::from_ref(&old));
        assert!(checkpoints.older("blog", &new).is_empty());
        checkpoints.remove(&old).unwrap();
        let again = open(&folder).await.unwrap();
        assert!(again.has(&new) && !again.has(&old));
        assert!(again.outdated().is_empty());
        fs::remove_dir_all(folder.with_extension("memory")).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn one_that_outlived_its_successor_is_known() {
        let folder = folder();
        let checkpoints = open(&folder).await.unwrap();
        let (old, new) = (bake(&checkpoints, 1).await, bake(&checkpoints, 2).await);
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let manifest = File::options().write(true).open(checkpoints.path(&old).join(MANIFEST)).unwrap();
        manifest.set_modified(long_ago).unwrap();
        let again = open(&folder).await.unwrap();
        assert_eq!(again.outdated(), [old]);
        assert!(again.has(&new));
        fs::remove_dir_all(folder.with_extension("memory")).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn what_was_interrupted_or_spoilt_is_removed() {
        let folder = folder();
        let checkpoints = open(&folder).await.unwrap();
        let spoilt = bake(&checkpoints, 1).await;
        fs::write(checkpoints.images(&spoilt).join("pages-1.img"), b"mem0ry").unwrap();
        let interrupted = ingredients(2).key();
        checkpoints.begin(&interrupted).unwrap();
        let again = open(&folder).await.unwrap();
        again.clean().unwrap();
        assert!(!again.has(&spoilt) && !again.has(&interrupted));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder.with_extension("memory")).unwrap();
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
