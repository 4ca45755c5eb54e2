//! The checkpoints of this node: which are complete, which are broken, and how often a restore of each has failed.
//!
//! A checkpoint is a folder named by its key, with CRIU's image files and a manifest, and in containerd a committed
//! snapshot of the files that the processes had when they were frozen. A folder without a manifest is an interrupted
//! bake, and is removed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::manifest::{self, CheckpointKey, CheckpointManifest, Ingredients, SharedFiles, Sharing};
use super::prefault::PrefaultList;
use super::randomness::RandomNumbers;
use super::sharing::{Evidence, ShareError, SharedMemory};
use crate::runtime::Checkpoint;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::fault_points::FaultInjector;
use crate::runtime::containerd::host::{kernel, node_dir, private_files};

/// Restores that fail one after another before a checkpoint is removed and baked again.
const MAX_FAILED_RESTORES: u32 = 3;

/// The file with what [`Catalog::record_repeated_values`] stores. It is written after the manifest.
const REPEATED_VALUES: &str = "repeated.json";

/// What the manifest says of a complete checkpoint.
#[derive(Debug)]
struct CatalogEntry {
    template: String,
    sharing: Sharing,
    random_numbers: RandomNumbers,
}

/// All checkpoints of this node.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// The folder with one folder for each checkpoint.
    folder: PathBuf,
    /// The memory that instances of checkpoints share.
    memory: SharedMemory,
    complete: Mutex<HashMap<CheckpointKey, CatalogEntry>>,
    /// Folders found at the start that are not complete checkpoints.
    broken: Mutex<Vec<PathBuf>>,
    /// For each checkpoint, the restores that failed since the last that succeeded.
    failed_restores: Mutex<HashMap<CheckpointKey, u32>>,
}

impl Catalog {
    /// Finds the checkpoints in a folder, which is created if it is missing. Reads every file of every checkpoint to
    /// compare its checksum. What is not a complete checkpoint stays for [`Catalog::remove_broken`].
    ///
    /// # Errors
    /// The folder cannot be created or listed.
    pub(crate) async fn open(folder: PathBuf, memory: SharedMemory) -> io::Result<Self> {
        private_files::create_folder(&folder)?;
        let (mut complete, mut broken) = (HashMap::new(), Vec::new());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let checkpoint = path.clone();
            let found = match blocking(move || load(&checkpoint)).await {
                Ok((key, found)) => match &found.sharing {
                    Sharing::Shared(files) => memory.find(&key, files).await.map(|()| (key, found)),
                    Sharing::Private(_) => Ok((key, found)),
                },
                Err(error) => Err(error),
            };
            match found {
                Ok((key, found)) => {
                    complete.insert(key, found);
                }
                Err(error) => {
                    tracing::info!(checkpoint = %path.display(), %error, "incomplete checkpoint found; removing it");
                    broken.push(path);
                }
            }
        }
        let (complete, broken) = (Mutex::new(complete), Mutex::new(broken));
        Ok(Self { folder, memory, complete, broken, failed_restores: Mutex::default() })
    }

    /// Removes what [`Catalog::open`] found and what is not a complete checkpoint, and detaches shared memory that
    /// belongs to no checkpoint. May be repeated after an error.
    ///
    /// # Errors
    /// A folder cannot be removed: with `DirectoryNotEmpty`, CRIU of a server that died still writes to it.
    pub(crate) fn remove_broken(&self) -> io::Result<()> {
        let mut broken = self.broken.lock();
        while let Some(path) = broken.last() {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => broken.pop(),
            };
        }
        self.memory.detach_unknown()
    }

    /// Returns what the instances of a checkpoint have as their `/dev` if they share memory; `None` if they do not.
    pub(crate) fn devices_dir(&self, key: &CheckpointKey) -> Option<PathBuf> {
        let complete = self.complete.lock();
        let is_shared = matches!(complete.get(key)?.sharing, Sharing::Shared(_));
        is_shared.then(|| self.memory.devices_dir(key))
    }

    /// Returns in words whether the instances of a checkpoint share memory; `None` if there is no such checkpoint.
    pub(crate) fn describe_sharing(&self, key: &CheckpointKey) -> Option<String> {
        self.complete.lock().get(key).map(|entry| match &entry.sharing {
            Sharing::Shared(files) => format!("instances share {} MiB of memory", files.mapped_bytes >> 20),
            Sharing::Private(why) => format!("each instance has its own memory: {why}"),
        })
    }

    /// Returns in words whether the instances of a checkpoint draw different random numbers; `None` if there is no such
    /// checkpoint.
    pub(crate) fn describe_random_numbers(&self, key: &CheckpointKey) -> Option<String> {
        self.complete.lock().get(key).map(|entry| entry.random_numbers.describe())
    }

    /// Returns for each checkpoint its template and the bytes that its instances share.
    pub(crate) fn shared_bytes(&self) -> Vec<(String, u64)> {
        let complete = self.complete.lock();
        let bytes = |key| self.memory.allocated_bytes(key);
        complete.iter().map(|(key, entry)| (entry.template.clone(), bytes(key))).collect()
    }

    /// Returns the bytes of memory that the instances of all checkpoints share at most. No instance is charged for them.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.memory.reserved_bytes()
    }

    /// Moves the memory in a checkpoint's image files to files that its instances share. See [`SharedMemory::share`].
    ///
    /// # Errors
    /// The memory is not shared, for the reason in the error.
    pub(super) async fn share(
        &self,
        key: &CheckpointKey,
        with_shm: bool,
        evidence: Evidence,
        faults: &FaultInjector,
    ) -> Result<SharedFiles, ShareError> {
        self.memory.share(key, self.images_dir(key), with_shm, evidence, faults).await
    }

    /// Gives back unused shared memory. See [`SharedMemory::punch_gaps`].
    pub(crate) async fn punch_gaps(&self, key: Option<&CheckpointKey>) {
        self.memory.punch_gaps(key).await;
    }

    /// Forgets the shared memory of removed checkpoints that no instance uses any more.
    pub(crate) fn forget_unused_memory(&self, in_use: &[CheckpointKey]) {
        self.memory.forget_unused(in_use);
    }

    /// Whether there is a complete checkpoint with this key.
    pub(crate) fn contains(&self, key: &CheckpointKey) -> bool {
        self.complete.lock().contains_key(key)
    }

    /// Notes that a restore has succeeded.
    pub(crate) fn record_restore(&self, key: &CheckpointKey) {
        self.failed_restores.lock().remove(key);
    }

    /// Notes that a restore has failed. Returns whether the checkpoint must be removed: too many failed in a row.
    pub(crate) fn record_failure(&self, key: &CheckpointKey) -> bool {
        let mut failures = self.failed_restores.lock();
        let count = failures.entry(key.clone()).or_default();
        *count += 1;
        if *count < MAX_FAILED_RESTORES {
            return false;
        }
        failures.remove(key);
        true
    }

    /// Stores with a checkpoint which values two instances of it both drew. See [`Checkpoint::repeated_values`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn record_repeated_values(&self, key: &CheckpointKey, values: &[String]) -> io::Result<()> {
        let checkpoint = self.checkpoint_dir(key);
        let draft = checkpoint.join("repeated.draft");
        fs::write(&draft, serde_json::to_vec(values)?)?;
        fs::rename(draft, checkpoint.join(REPEATED_VALUES))
    }

    /// Returns the keys of all complete checkpoints.
    pub(crate) fn keys(&self) -> Vec<CheckpointKey> {
        self.complete.lock().keys().cloned().collect()
    }

    /// Returns the folder of CRIU's image files of a checkpoint.
    pub(crate) fn images_dir(&self, key: &CheckpointKey) -> PathBuf {
        manifest::images_dir(&self.checkpoint_dir(key))
    }

    /// Returns the folder with the files of `/dev/shm` of a checkpoint. It does not exist if there are none.
    pub(crate) fn shm_dir(&self, key: &CheckpointKey) -> PathBuf {
        self.checkpoint_dir(key).join("shm")
    }

    /// Whether the instances of a checkpoint share memory and its list of pages to prefault does not exist yet.
    pub(crate) fn needs_prefault_list(&self, key: &CheckpointKey) -> bool {
        self.devices_dir(key).is_some() && !PrefaultList::exists(&self.checkpoint_dir(key))
    }

    /// Returns the folder of a checkpoint.
    pub(crate) fn checkpoint_dir(&self, key: &CheckpointKey) -> PathBuf {
        self.folder.join(key.as_str())
    }

    /// Creates the empty folder for CRIU's image files, and returns it. An older checkpoint with the same key is
    /// removed.
    ///
    /// # Errors
    /// The older checkpoint cannot be removed or the folder cannot be created.
    pub(super) fn begin(&self, key: &CheckpointKey) -> io::Result<PathBuf> {
        self.remove(key)?;
        let images = self.images_dir(key);
        private_files::create_folder(&self.checkpoint_dir(key))?;
        private_files::create_folder(&images)?;
        Ok(images)
    }

    /// Writes the manifest, which makes a checkpoint complete. All image files must be written.
    ///
    /// # Errors
    /// An image file cannot be read or the manifest cannot be written.
    pub(super) async fn finish(
        &self,
        template: &str,
        ingredients: Ingredients,
        sharing: Sharing,
        random_numbers: RandomNumbers,
    ) -> io::Result<()> {
        let key = ingredients.key();
        let entry = CatalogEntry {
            template: template.to_owned(),
            sharing: sharing.clone(),
            random_numbers: random_numbers.clone(),
        };
        let (checkpoint, template) = (self.checkpoint_dir(&key), template.to_owned());
        let images = self.images_dir(&key);
        // In user namespaces CRIU reads the files as a user that the host does not have. The folder above is private.
        let is_private = !ingredients.user_namespace;
        blocking(move || {
            if is_private {
                private_files::make_files_private(&images)?;
            }
            CheckpointManifest::describe(&checkpoint, template, ingredients, sharing, random_numbers)?
                .write(&checkpoint)
        })
        .await?;
        self.complete.lock().insert(key, entry);
        Ok(())
    }

    /// Removes a checkpoint, complete or not, and detaches its shared memory. Instances that run keep the memory.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub(super) fn remove(&self, key: &CheckpointKey) -> io::Result<()> {
        self.complete.lock().remove(key);
        self.memory.remove(key)?;
        match fs::remove_dir_all(self.checkpoint_dir(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the other checkpoints of a template, which its newest replaces.
    pub(super) fn replaced_by(&self, template: &str, newest: &CheckpointKey) -> Vec<CheckpointKey> {
        let complete = self.complete.lock();
        let older = complete.iter().filter(|(key, entry)| entry.template == template && *key != newest);
        older.map(|(key, _)| key.clone()).collect()
    }

    /// Returns the checkpoints whose template has a newer one: a server died before it removed them.
    pub(crate) fn outdated(&self) -> Vec<CheckpointKey> {
        let mut newest: HashMap<String, (SystemTime, CheckpointKey)> = HashMap::new();
        let mut outdated = Vec::new();
        for (key, CatalogEntry { template, .. }) in self.complete.lock().iter() {
            let one = (manifest::baked_at(&self.checkpoint_dir(key)), key.clone());
            match newest.get_mut(template) {
                Some(other) if other.0 < one.0 => outdated.push(std::mem::replace(other, one).1),
                Some(_) => outdated.push(one.1),
                None => drop(newest.insert(template.clone(), one)),
            }
        }
        outdated
    }
}

/// Reads a checkpoint's manifest and compares its image files with it.
fn load(checkpoint: &Path) -> io::Result<(CheckpointKey, CatalogEntry)> {
    let (key, manifest) = CheckpointManifest::read(checkpoint)?;
    manifest.verify(checkpoint)?;
    let CheckpointManifest { template, sharing, random_numbers, .. } = manifest;
    Ok((key, CatalogEntry { template, sharing, random_numbers }))
}

/// Returns the complete checkpoints in a node's folder for containers that this kernel can restore, whether or not a
/// server of that node runs. Reads the manifests only.
///
/// # Errors
/// The folder exists and cannot be read.
pub fn baked_checkpoints(containers: &Path) -> io::Result<Vec<Checkpoint>> {
    let kernel = kernel::release();
    let entries = match fs::read_dir(node_dir::checkpoints_dir(containers)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let manifests = entries.filter_map(|entry| {
        let folder = entry.ok()?.path();
        Some((CheckpointManifest::read(&folder).ok()?.1, folder))
    });
    let of_this_kernel = manifests.filter(|(manifest, _)| manifest.ingredients.kernel == kernel);
    let checkpoints = of_this_kernel.map(|(manifest, folder)| {
        let repeated = fs::read(folder.join(REPEATED_VALUES)).ok();
        let shared_memory = match manifest.sharing {
            Sharing::Shared(files) => Ok(files.mapped_bytes),
            Sharing::Private(why) => Err(why),
        };
        Checkpoint {
            template: manifest.template,
            revision: manifest.ingredients.revision,
            shared_memory,
            repeated_values: repeated.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default(),
            repeating_numbers: manifest.random_numbers.may_repeat().map(str::to_owned).collect(),
        }
    });
    Ok(checkpoints.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    /// Folders of checkpoints and of shared memory, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let root = std::env::temp_dir().join(format!("try-it-now-checkpoints-{}", NodeId::random()));
            fs::create_dir_all(root.join("memory")).unwrap();
            Self(root)
        }

        fn checkpoints(&self) -> PathBuf {
            self.0.join("checkpoints")
        }

        async fn open(&self) -> Catalog {
            let memory = SharedMemory::new(self.0.join("memory"), PathBuf::new(), 0, 0);
            Catalog::open(self.checkpoints(), memory).await.unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ingredients(revision: u64) -> Ingredients {
        let text = |text: &str| text.to_owned();
        Ingredients {
            revision,
            image: text("sha256:1"),
            kernel: text("6.18"),
            criu: text("4.2"),
            apparmor: None,
            user_namespace: true,
        }
    }

    async fn bake(catalog: &Catalog, revision: u64) -> CheckpointKey {
        let ingredients = ingredients(revision);
        let key = ingredients.key();
        let images = catalog.begin(&key).unwrap();
        fs::write(images.join("pages-1.img"), b"memory").unwrap();
        catalog
            .finish("shop", ingredients, Sharing::Private(String::new()), RandomNumbers::default())
            .await
            .unwrap();
        key
    }

    #[tokio::test]
    async fn a_checkpoint_is_found_again_and_replaces_older_ones_of_its_template() {
        let folder = Folder::new();
        let catalog = folder.open().await;
        let (old, new) = (bake(&catalog, 1).await, bake(&catalog, 2).await);
        assert_eq!(catalog.replaced_by("shop", &new), std::slice::from_ref(&old));
        assert!(catalog.replaced_by("blog", &new).is_empty());
        catalog.remove(&old).unwrap();
        let again = folder.open().await;
        assert!(again.contains(&new) && !again.contains(&old));
        assert!(again.outdated().is_empty());
    }

    #[tokio::test]
    async fn a_checkpoint_that_outlived_its_successor_is_outdated() {
        let folder = Folder::new();
        let catalog = folder.open().await;
        let (old, new) = (bake(&catalog, 1).await, bake(&catalog, 2).await);
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let manifest = catalog.checkpoint_dir(&old).join("manifest.json");
        fs::File::options().write(true).open(manifest).unwrap().set_modified(long_ago).unwrap();
        let again = folder.open().await;
        assert_eq!(again.outdated(), [old]);
        assert!(again.contains(&new));
    }

    #[tokio::test]
    async fn interrupted_and_damaged_checkpoints_are_removed() {
        let folder = Folder::new();
        let catalog = folder.open().await;
        let damaged = bake(&catalog, 1).await;
        fs::write(catalog.images_dir(&damaged).join("pages-1.img"), b"mem0ry").unwrap();
        let interrupted = ingredients(2).key();
        catalog.begin(&interrupted).unwrap();
        let again = folder.open().await;
        again.remove_broken().unwrap();
        assert!(!again.contains(&damaged) && !again.contains(&interrupted));
        assert_eq!(fs::read_dir(folder.checkpoints()).unwrap().count(), 0);
    }
}
