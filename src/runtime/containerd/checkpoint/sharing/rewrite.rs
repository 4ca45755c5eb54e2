//! Rewrites a checkpoint's image files so that its memory is shared.
//!
//! First all images are read and the changes planned. Then the memory is written to its files and the new images to
//! drafts. Only then do the drafts replace the images. What fails before that leaves the checkpoint as it was.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::criu_image::CriuImage;
use super::gaps::MappedParts;
use super::image_dir::ImageDir;
use super::layout::{MEMORY_DIR, MOUNT, PAGE_SIZE, SHMEM_PREFIX};
use super::madvise_events::DiscardedRanges;
use super::madvise_filter;
use super::plan::{self, SharingPlan, SharingRules, ShmemFiles};
use super::proto_message::ProtoMessage;
use super::refused::Refused;
use super::zero_reliance::AllocatorReport;
use crate::template::random_hex;

/// The mode of a file of memory: a regular file that all may read. The host's root, its owner, has no id in a user
/// namespace.
const FILE_MODE: u32 = 0o100_444;

/// The mode of the folder of files of memory. It cannot be listed.
const FOLDER_MODE: u32 = 0o711;

/// Pages that are copied at a time.
const COPY_PAGES: usize = 256;

/// What was observed of an app before it was frozen.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) allocators: AllocatorReport,
    pub(crate) discarded: DiscardedRanges,
}

/// A file of memory to be written: the private memory of one process, or shared anonymous memory of several.
struct MemoryFile {
    /// The file's name in [`MEMORY_DIR`].
    name: String,
    /// The image of its pages.
    pages: PathBuf,
    plan: SharingPlan,
    /// Whether the image of the pages is replaced by one of the pages that stay. The image of shared anonymous memory
    /// is not replaced: CRIU does not read it any more.
    replaces_pages: bool,
}

/// All changes to a checkpoint, before they are made.
pub(crate) struct RewriteDraft {
    images: PathBuf,
    files: Vec<MemoryFile>,
    /// The new images, by their names.
    changed: Vec<(String, Vec<u8>)>,
    mapped_bytes: u64,
}

impl RewriteDraft {
    /// Reads the images of a checkpoint and plans the changes, and changes nothing. With `with_shm`, shared anonymous
    /// memory of several processes, such as the compiled scripts of PHP, becomes private to each of them. Memory that
    /// the app discarded is not shared.
    ///
    /// # Errors
    /// The images are malformed or inconsistent, or there is nothing to share.
    pub(crate) fn read(images: &Path, with_shm: bool, evidence: &Evidence) -> Result<Self, Refused> {
        let source = ImageDir::open(images)?;
        let mut file_list = source.read("files.img")?;
        let mount = mount_id(&source)?;
        let mut id = next_file_id(&file_list)?;
        let (mut files, mut changed) = (Vec::new(), Vec::new());
        let mut shmem_files = ShmemFiles::new();
        let shmem = if with_shm { find_shmem(&source, &file_list)? } else { Vec::new() };
        for (number, file) in shmem {
            file_list.records.push(file_entry(id, &file.name, file.plan.file_length, mount));
            shmem_files.insert(number, id);
            id = id.checked_add(1).ok_or(Refused::Inconsistent)?;
            files.push(file);
        }
        let (mut used_pages, mut sharing) = (HashSet::new(), Vec::new());
        let processes = source.names().iter();
        for pid in processes.filter_map(|name| name.strip_prefix("mm-")?.strip_suffix(".img")) {
            let (mm_name, pagemap_name) = (format!("mm-{pid}.img"), format!("pagemap-{pid}.img"));
            let (mut mm, mut pagemap) = (source.read(&mm_name)?, source.read(&pagemap_name)?);
            let (pages, length) = source.pages_of(&pagemap_name, &pagemap)?;
            // An image of pages belongs to one process.
            if !used_pages.insert(pages.clone()) {
                return Err(Refused::Inconsistent);
            }
            let number = pid.parse().map_err(|_| Refused::Inconsistent)?;
            let reliance = evidence.allocators.of(number).ok_or(Refused::NotExamined(number))?;
            let rules = SharingRules { shmem_files: &shmem_files, discarded: &evidence.discarded, reliance };
            let plan = plan::plan_process(&mut mm, &mut pagemap, length, id, &rules)?;
            let Some(plan) = plan else { continue };
            sharing.push((number, reliance));
            changed.push((mm_name, mm.write()));
            if plan.moved.is_empty() {
                continue;
            }
            changed.push((pagemap_name, pagemap.write()));
            let name = unguessable(pid)?;
            file_list.records.push(file_entry(id, &name, plan.file_length, mount));
            id = id.checked_add(1).ok_or(Refused::Inconsistent)?;
            files.push(MemoryFile { name, pages, plan, replaces_pages: true });
        }
        if files.is_empty() {
            return Err(Refused::Nothing);
        }
        changed.extend(madvise_filter::add_filters(&source, &sharing)?);
        let mut mapped_bytes = 0_u64;
        for file in &files {
            mapped_bytes = mapped_bytes.checked_add(file.plan.mapped_bytes()).ok_or(Refused::Inconsistent)?;
        }
        changed.push(("files.img".to_owned(), file_list.write()));
        // A draft can replace an image once. A list of processes that names a thread twice has its image changed twice.
        let mut names = HashSet::new();
        if !changed.iter().all(|(name, _)| names.insert(name.as_str())) {
            return Err(Refused::Inconsistent);
        }
        Ok(Self { images: images.to_owned(), files, changed, mapped_bytes })
    }

    /// Returns how many bytes of the files mappings cover. The files take at most that while no mapping grows.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }

    /// Returns how many files of memory there will be.
    pub(crate) fn file_count(&self) -> u64 {
        self.files.len() as u64
    }

    /// Returns the parts of the files that mappings cover.
    pub(crate) fn mapped_parts(&self) -> Vec<MappedParts> {
        let parts = |file: &MemoryFile| file.plan.mapped.iter().map(|part| (part.start, part.end)).collect();
        self.files.iter().map(|file| MappedParts { name: file.name.clone(), parts: parts(file) }).collect()
    }

    /// Writes the memory to files in `folder`, and the new images to drafts beside the old ones.
    ///
    /// # Errors
    /// A file cannot be read or written. With `StorageFull`, the file system of `folder` is too small.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let folder = folder.join(MEMORY_DIR);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(FOLDER_MODE))?;
        for file in &self.files {
            let pages = File::open(&file.pages)?;
            let path = folder.join(&file.name);
            let memory = File::create_new(&path)?;
            memory.set_len(file.plan.file_length)?;
            // A private mapping of a tmpfs allocates a page there when a hole is read. When the file system is full,
            // the process is killed (SIGBUS). So whole mappings are allocated now: else one instance could fill the
            // file system, and others would be killed when they first use memory that they had before.
            for part in file.plan.mapped.iter().filter(|part| !part.is_empty()) {
                fallocate(&memory, FallocateFlags::empty(), part.start, part.end - part.start)?;
            }
            for (from, to) in &file.plan.moved {
                copy_pages(&pages, from.start, from.end - from.start, &memory, *to)?;
            }
            memory.set_permissions(Permissions::from_mode(FILE_MODE & 0o777))?;
            if !file.replaces_pages {
                continue;
            }
            let rest = File::create(draft(&file.pages))?;
            let mut at = 0;
            for kept in &file.plan.kept {
                let length = kept.end - kept.start;
                copy_pages(&pages, kept.start, length, &rest, at)?;
                at += length;
            }
            rest.set_len(at)?;
        }
        self.changed.iter().try_for_each(|(name, bytes)| fs::write(draft(&self.images.join(name)), bytes))
    }

    /// Replaces the images by the drafts.
    ///
    /// # Errors
    /// A file cannot be renamed. Then the checkpoint may be damaged.
    pub(crate) fn replace_images(self) -> io::Result<()> {
        self.replaced().try_for_each(|path| fs::rename(draft(&path), path))
    }

    /// Removes the drafts that exist.
    pub(crate) fn discard(self) {
        for path in self.replaced() {
            let _ = fs::remove_file(draft(&path));
        }
    }

    /// Returns the images that are replaced.
    fn replaced(&self) -> impl Iterator<Item = PathBuf> {
        let images = self.changed.iter().map(|(name, _)| self.images.join(name));
        images.chain(self.files.iter().filter(|file| file.replaces_pages).map(|file| file.pages.clone()))
    }
}

/// Finds shared anonymous memory that no process can open by a name or a descriptor. Returns its files, each with
/// CRIU's number of what is mapped.
fn find_shmem(source: &ImageDir<'_>, file_list: &CriuImage) -> Result<Vec<(u64, MemoryFile)>, Refused> {
    const MEMFD: u64 = 18;
    const NAMELESS: &[u8] = b"/dev/zero";
    let mut found = Vec::new();
    let exists = |image: &str| source.names().iter().any(|name| name == image);
    if !exists("memfd.img") {
        return Ok(found);
    }
    let wrong = |why| Refused::malformed("memfd.img", why);
    let memories = source.read("memfd.img")?;
    for file in file_list.records.iter().filter(|file| file.number(1) == Some(MEMFD)) {
        let file = ProtoMessage::read(file.bytes(20).ok_or(Refused::Inconsistent)?).map_err(wrong)?;
        let (number, inode) = (file.need(1).map_err(wrong)?, file.need(5).map_err(wrong)?);
        let memory = memories.records.iter().find(|memory| memory.number(7) == Some(inode));
        let Some(memory) = memory.filter(|memory| memory.bytes(1) == Some(NAMELESS)) else { continue };
        let (size, id) = (memory.need(4).map_err(wrong)?, memory.need(5).map_err(wrong)?);
        let name = format!("pagemap-shmem-{id}.img");
        if !exists(&name) {
            continue;
        }
        let pagemap = source.read(&name)?;
        let (pages, length) = source.pages_of(&name, &pagemap)?;
        let plan = plan::plan_shmem(&pagemap, length, size)?;
        let name = unguessable(&format!("{SHMEM_PREFIX}{id}"))?;
        found.push((number, MemoryFile { name, pages, plan, replaces_pages: false }));
    }
    Ok(found)
}

/// Returns a name for a file of memory that only processes that map the file know. Otherwise a user of the container
/// could read what a process of another user had in its memory when it was frozen.
fn unguessable(owner: &str) -> Result<String, Refused> {
    let random = random_hex::<16>().map_err(|_| Refused::Lacks("random numbers"))?;
    Ok(format!("{owner}-{random}.bin"))
}

/// Returns the path of the draft that replaces an image.
fn draft(image: &Path) -> PathBuf {
    image.with_extension("draft")
}

/// Copies whole pages. Pages of zeros stay holes.
fn copy_pages(from: &File, mut at: u64, length: u64, into: &File, mut to: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_PAGES * PAGE_SIZE as usize];
    let end = at + length;
    while at < end {
        let part = (end - at).min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..part], at)?;
        let mut written = 0;
        // Pages that follow each other and are not zero are written with one call.
        let is_zero = |page: &[u8; PAGE_SIZE as usize]| *page == [0; PAGE_SIZE as usize];
        for stretch in buffer[..part].as_chunks().0.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
            if !is_zero(&stretch[0]) {
                into.write_all_at(stretch.as_flattened(), to + written)?;
            }
            written += stretch.as_flattened().len() as u64;
        }
        at += part as u64;
        to += part as u64;
    }
    Ok(())
}

/// Returns CRIU's number of the mount on which containers see the files.
fn mount_id(source: &ImageDir<'_>) -> Result<u32, Refused> {
    let mut lists = source.names().iter().filter(|name| name.starts_with("mountpoints-"));
    // With several mount namespaces, the namespace of each process would be needed.
    let (Some(name), None) = (lists.next(), lists.next()) else {
        return Err(Refused::Lacks("single list of mounts"));
    };
    let mounts = source.read(name)?;
    let found = mounts.records.iter().find(|mount| mount.bytes(7) == Some(MOUNT.as_bytes()));
    found
        .ok_or(Refused::Lacks("mount for the files"))?
        .need_u32(2)
        .map_err(|why| Refused::malformed(name, why))
}

/// Returns a number that no file of the checkpoint has.
fn next_file_id(file_list: &CriuImage) -> Result<u32, Refused> {
    let mut highest = 0;
    for file in &file_list.records {
        highest = highest.max(file.need_u32(2).map_err(|why| Refused::malformed("files.img", why))?);
    }
    highest.checked_add(1).ok_or(Refused::Inconsistent)
}

/// Returns the message by which CRIU finds a file of memory: a `file_entry` with a `reg_file_entry`.
fn file_entry(id: u32, name: &str, size: u64, mount: u32) -> ProtoMessage {
    const REGULAR: u64 = 1;
    let mut owner = ProtoMessage::default();
    (1..=5).for_each(|field| owner.set_number(field, 0));
    let mut file = ProtoMessage::default();
    file.set_number(1, u64::from(id));
    // The flags (open for reading only) and the position.
    file.set_number(2, 0);
    file.set_number(3, 0);
    file.push_bytes(5, &owner.write());
    file.push_bytes(6, format!("{MOUNT}/{MEMORY_DIR}/{name}").as_bytes());
    // A signed number, in protobuf's zigzag encoding.
    file.set_number(7, u64::from(mount) << 1);
    file.set_number(8, size);
    file.set_number(10, u64::from(FILE_MODE));
    let mut entry = ProtoMessage::default();
    entry.set_number(1, REGULAR);
    entry.set_number(2, u64::from(id));
    entry.push_bytes(3, &file.write());
    entry
}
