//! A checkpoint's folder is rewritten: first all is read and planned, then the memory is written to its files, and only
//! then do new images take the place of the old. What fails before that leaves the checkpoint as it was.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::allocator_scan::Evidence;
use super::criu_image::Image;
use super::image_dir::ImageDir;
use super::madvise_filter;
use super::plan::{self, PAGE, Parted, Refused, Rules, SharingPlan, malformed};
use super::proto_message::Message;

/// Where a container sees the files, and on which mount. No other mount is needed for them, and each costs time.
pub(crate) const FOLDER: &str = ".mem";
const MOUNT: &str = "/dev";

/// What begins the names of those with memory that processes had in common.
pub(crate) const IN_COMMON: &str = "shm-";

/// Regular, and for root alone to read.
const MODE: u32 = 0o100_400;

/// Pages that are copied at a time.
const AT_ONCE: usize = 256;

/// A file of memory, of one process, or of several that had it in common.
struct Task {
    /// The file's name in [`FOLDER`].
    name: String,
    /// The image of its pages.
    pages: PathBuf,
    plan: SharingPlan,
    /// Whether those that stay are written anew. Nobody asks for what several had in common.
    shrinks: bool,
}

/// All that is to be written.
pub(crate) struct RewriteDraft {
    images: PathBuf,
    tasks: Vec<Task>,
    /// New images, by their names.
    changed: Vec<(String, Vec<u8>)>,
    /// Bytes that the files can come to hold by what their mappings touch without growing.
    room: u64,
}

impl RewriteDraft {
    /// Reads the images of a checkpoint, and changes nothing. With `parts`, each process has from now on for itself what
    /// several had in common without a name, such as PHP its compiled scripts. What was given up is left as it is.
    pub(crate) fn read(images: &Path, parts: bool, evidence: &Evidence) -> Result<Self, Refused> {
        let source = ImageDir::open(images)?;
        let mut files = source.read("files.img")?;
        let mount = mount(&source)?;
        let mut id = next_id(&files)?;
        let (mut tasks, mut changed) = (Vec::new(), Vec::new());
        let mut parted = Parted::new();
        let in_common = if parts { in_common(&source, &files)? } else { Vec::new() };
        for (number, InCommon { name, pages, plan }) in in_common {
            files.records.push(file_entry(id, &name, plan.length, mount));
            parted.insert(number, id);
            id = id.checked_add(1).ok_or(Refused::Contradiction)?;
            tasks.push(Task { name, pages, plan, shrinks: false });
        }
        let (mut taken, mut sharing) = (HashSet::new(), Vec::new());
        let processes = source.names().iter();
        for pid in processes.filter_map(|name| name.strip_prefix("mm-")?.strip_suffix(".img")) {
            let (mm_name, pagemap_name) = (format!("mm-{pid}.img"), format!("pagemap-{pid}.img"));
            let (mut mm, mut pagemap) = (source.read(&mm_name)?, source.read(&pagemap_name)?);
            let (pages, length) = source.pages_of(&pagemap_name, &pagemap)?;
            // One image of pages belongs to one process.
            if !taken.insert(pages.clone()) {
                return Err(Refused::Contradiction);
            }
            let number = pid.parse().map_err(|_| Refused::Contradiction)?;
            let habit = evidence.habits.of(number).ok_or(Refused::Unseen(number))?;
            let rules = Rules { parted: &parted, given_up: &evidence.given_up, habit };
            let plan = plan::share(&mut mm, &mut pagemap, length, id, &rules)?;
            let Some(plan) = plan else { continue };
            sharing.push((number, habit));
            changed.push((mm_name, mm.write()));
            if plan.moved.is_empty() {
                continue;
            }
            changed.push((pagemap_name, pagemap.write()));
            let name = format!("{pid}.bin");
            files.records.push(file_entry(id, &name, plan.length, mount));
            id = id.checked_add(1).ok_or(Refused::Contradiction)?;
            tasks.push(Task { name, pages, plan, shrinks: true });
        }
        if tasks.is_empty() {
            return Err(Refused::Nothing);
        }
        changed.extend(madvise_filter::answer_all(&source, &sharing)?);
        let mut room = 0_u64;
        for task in &tasks {
            room = room.checked_add(task.plan.room()).ok_or(Refused::Contradiction)?;
        }
        changed.push(("files.img".to_owned(), files.write()));
        Ok(Self { images: images.to_owned(), tasks, changed, room })
    }

    /// Bytes that the files can come to hold by what their mappings touch without growing.
    pub(crate) fn room(&self) -> u64 {
        self.room
    }

    /// How many files there will be.
    pub(crate) fn files(&self) -> u64 {
        self.tasks.len() as u64
    }

    /// Writes the memory to files in `folder`, and what is left to drafts beside the images.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let folder = folder.join(FOLDER);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for task in &self.tasks {
            let pages = File::open(&task.pages)?;
            let path = folder.join(&task.name);
            let memory = File::create_new(&path)?;
            memory.set_len(task.plan.length)?;
            // Else a copy would die of the first use of memory that it had and never touched, once others have filled the
            // file system.
            for part in task.plan.mapped.iter().filter(|part| !part.is_empty()) {
                fallocate(&memory, FallocateFlags::empty(), part.start, part.end - part.start)?;
            }
            for (from, to) in &task.plan.moved {
                copy(&pages, from.start, from.end - from.start, &memory, *to)?;
            }
            memory.set_permissions(Permissions::from_mode(MODE & 0o777))?;
            if !task.shrinks {
                continue;
            }
            let rest = File::create(draft(&task.pages))?;
            let mut at = 0;
            for kept in &task.plan.kept {
                let length = kept.end - kept.start;
                copy(&pages, kept.start, length, &rest, at)?;
                at += length;
            }
            rest.set_len(at)?;
        }
        self.changed.iter().try_for_each(|(name, bytes)| fs::write(draft(&self.images.join(name)), bytes))
    }

    /// Puts the drafts in the place of the images.
    pub(crate) fn swap(self) -> io::Result<()> {
        self.replaced().try_for_each(|path| fs::rename(draft(&path), path))
    }

    /// Removes the drafts, as far as there are any.
    pub(crate) fn discard(self) {
        for path in self.replaced() {
            let _ = fs::remove_file(draft(&path));
        }
    }

    /// The images that others take the place of.
    fn replaced(&self) -> impl Iterator<Item = PathBuf> {
        let images = self.changed.iter().map(|(name, _)| self.images.join(name));
        images.chain(self.tasks.iter().filter(|task| task.shrinks).map(|task| task.pages.clone()))
    }
}

/// Memory that several processes had in common.
struct InCommon {
    name: String,
    pages: PathBuf,
    plan: SharingPlan,
}

/// Memory in common that no process can ask for by a name or a descriptor, by the number of the file that CRIU has for it.
fn in_common(source: &ImageDir<'_>, files: &Image) -> Result<Vec<(u64, InCommon)>, Refused> {
    const MEMFD: u64 = 18;
    const NAMELESS: &[u8] = b"/dev/zero";
    let mut found = Vec::new();
    let has = |image: &str| source.names().iter().any(|name| name == image);
    if !has("memfd.img") {
        return Ok(found);
    }
    let wrong = |why| malformed("memfd.img", why);
    let memories = source.read("memfd.img")?;
    for file in files.records.iter().filter(|file| file.number(1) == Some(MEMFD)) {
        let file = Message::read(file.bytes(20).ok_or(Refused::Contradiction)?).map_err(wrong)?;
        let (number, of) = (file.need(1).map_err(wrong)?, file.need(5).map_err(wrong)?);
        let memory = memories.records.iter().find(|memory| memory.number(7) == Some(of));
        let Some(memory) = memory.filter(|memory| memory.bytes(1) == Some(NAMELESS)) else { continue };
        let (size, id) = (memory.need(4).map_err(wrong)?, memory.need(5).map_err(wrong)?);
        let name = format!("pagemap-shmem-{id}.img");
        if !has(&name) {
            continue;
        }
        let pagemap = source.read(&name)?;
        let (pages, length) = source.pages_of(&name, &pagemap)?;
        let plan = plan::part(&pagemap, length, size)?;
        found.push((number, InCommon { name: format!("{IN_COMMON}{id}.bin"), pages, plan }));
    }
    Ok(found)
}

fn draft(image: &Path) -> PathBuf {
    image.with_extension("draft")
}

/// Copies whole pages; those that are zero stay holes.
fn copy(from: &File, mut at: u64, length: u64, into: &File, mut to: u64) -> io::Result<()> {
    let mut buffer = vec![0; AT_ONCE * PAGE as usize];
    let end = at + length;
    while at < end {
        let part = (end - at).min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..part], at)?;
        let mut written = 0;
        // As many at a time as are not zero one after another.
        let zero = |page: &[u8; PAGE as usize]| *page == [0; PAGE as usize];
        for stretch in buffer[..part].as_chunks().0.chunk_by(|one, next| zero(one) == zero(next)) {
            if !zero(&stretch[0]) {
                into.write_all_at(stretch.as_flattened(), to + written)?;
            }
            written += stretch.as_flattened().len() as u64;
        }
        at += part as u64;
        to += part as u64;
    }
    Ok(())
}

/// CRIU's number of the mount that the files are seen on.
fn mount(source: &ImageDir<'_>) -> Result<u32, Refused> {
    let mut all = source.names().iter().filter(|name| name.starts_with("mountpoints-"));
    // With several mount namespaces it would have to be known which process is in which.
    let (Some(name), None) = (all.next(), all.next()) else {
        return Err(Refused::Lacks("one list of mounts"));
    };
    let mounts = source.read(name)?;
    let found = mounts.records.iter().find(|mount| mount.bytes(7) == Some(MOUNT.as_bytes()));
    found.ok_or(Refused::Lacks("mount for the files"))?.need_u32(2).map_err(|why| malformed(name, why))
}

/// A number that no file of the checkpoint has.
fn next_id(files: &Image) -> Result<u32, Refused> {
    let mut highest = 0;
    for file in &files.records {
        highest = highest.max(file.need_u32(2).map_err(|why| malformed("files.img", why))?);
    }
    highest.checked_add(1).ok_or(Refused::Contradiction)
}

/// What CRIU is told of the file: a `file_entry` with a `reg_file_entry`.
fn file_entry(id: u32, name: &str, size: u64, mount: u32) -> Message {
    const REGULAR: u64 = 1;
    let mut owner = Message::default();
    (1..=5).for_each(|field| owner.set_number(field, 0));
    let mut file = Message::default();
    file.set_number(1, u64::from(id));
    // Opened for reading only, at its beginning.
    file.set_number(2, 0);
    file.set_number(3, 0);
    file.push_bytes(5, &owner.write());
    file.push_bytes(6, format!("{MOUNT}/{FOLDER}/{name}").as_bytes());
    // A signed number, as protobuf folds those.
    file.set_number(7, u64::from(mount) << 1);
    file.set_number(8, size);
    file.set_number(10, u64::from(MODE));
    let mut entry = Message::default();
    entry.set_number(1, REGULAR);
    entry.set_number(2, u64::from(id));
    entry.push_bytes(3, &file.write());
    entry
}
