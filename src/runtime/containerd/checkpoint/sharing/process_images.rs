//! Reads where CRIU's images have the memory of each process.

use std::path::{Path, PathBuf};

use super::image_dir::ImageDir;
use super::plan::stored_memory::{StoredMemory, stored_memory};
use super::refused::Refused;

/// Calls `visit` for each process of a checkpoint, with its number in the container, the image of its pages and what is
/// where in that image; or with the reason why that cannot be read.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn for_each_process(
    images: &Path,
    mut visit: impl FnMut(u32, Result<(PathBuf, StoredMemory), Refused>),
) -> Result<(), Refused> {
    let source = ImageDir::open(images)?;
    for name in source.names() {
        let Some(pid) = name.strip_prefix("mm-").and_then(|rest| rest.strip_suffix(".img")) else { continue };
        // CRIU writes no other names.
        let Ok(number) = pid.parse() else { continue };
        visit(number, read_process(&source, pid));
    }
    Ok(())
}

fn read_process(source: &ImageDir<'_>, pid: &str) -> Result<(PathBuf, StoredMemory), Refused> {
    let name = format!("pagemap-{pid}.img");
    let (mm, pagemap) = (source.read(&format!("mm-{pid}.img"))?, source.read(&name)?);
    let (pages, length) = source.pages_of(&name, &pagemap)?;
    Ok((pages, stored_memory(&mm, &pagemap, length)?))
}
