//! The root of a restored instance: an overlay of its layers, mounted by the restorer in its own mount namespace, and gone
//! with the instance.
//!
//! The server writes what is to be mounted to the instance's folder. containerd could mount it, but takes a process for
//! each layer to give its files the ids of the instance.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

use containerd_client::types::Mount;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};
use rustix::process::{chdir, fchdir};

use super::id_mapping::IdMapping;

/// The file with the options of the overlay, each on a line.
const FILE: &str = "root-options";
/// The folder in the bundle with a mount of each lower layer.
const LAYERS: &str = "layers";
/// The root in the bundle.
const ROOT: &str = "rootfs";
/// The option that names the lower layers.
const LOWER: &str = "lowerdir=";

/// Takes an overlay from the mounts that containerd is asked for, and has the restorer mount it instead. `folder` is the
/// instance's. Other mounts stay.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn mount_by_restorer(mounts: &mut Vec<Mount>, folder: &Path) -> io::Result<()> {
    if let [overlay] = mounts.as_slice()
        && overlay.r#type == "overlay"
    {
        fs::write(folder.join(FILE), overlay.options.join("\n"))?;
        mounts.clear();
    }
    Ok(())
}

/// Mounts the overlay of which the server wrote the options to the instance's folder, if it did, as the root in the
/// bundle. The files of its lower layers belong to the ids from `first_id` on, if there are any. The caller has a mount
/// namespace of its own and one thread.
///
/// # Errors
/// The kernel refuses.
pub(super) fn mount_root(folder: &Path, bundle: &Path, first_id: Option<u32>) -> io::Result<()> {
    let options = match fs::read_to_string(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        options => options?,
    };
    let lower =
        options.lines().find_map(|option| option.strip_prefix(LOWER)).ok_or(io::ErrorKind::InvalidData)?;
    let layers = bundle.join(LAYERS);
    fs::create_dir(&layers)?;
    let mapping = first_id.map(IdMapping::new).transpose()?;
    let mut names = Vec::new();
    for (number, layer) in lower.split(':').enumerate() {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, layer, clone)?;
        if let Some(mapping) = &mapping {
            mapping.apply(&tree)?;
        }
        let name = number.to_string();
        let at = layers.join(&name);
        fs::create_dir(&at)?;
        move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        names.push(name);
    }
    let others = options.lines().filter(|option| !option.starts_with(LOWER));
    let lower = format!("{LOWER}{}", names.join(":"));
    let options = CString::new(others.chain([lower.as_str()]).collect::<Vec<_>>().join(","))?;
    let root = bundle.join(ROOT);
    if !root.exists() {
        fs::create_dir(&root)?;
    }
    // With the short names the kernel takes many layers: all options together have the space of a page.
    let before = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    chdir(&layers)?;
    let mounted = mount("overlay", &root, "overlay", MountFlags::empty(), Some(options.as_c_str()));
    fchdir(before)?;
    Ok(mounted?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> Mount {
        let options = ["volatile", "lowerdir=/a:/b"].map(str::to_owned).to_vec();
        Mount { r#type: "overlay".to_owned(), options, ..Mount::default() }
    }

    #[test]
    fn only_an_overlay_is_left_to_the_restorer() {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-root-{}", crate::instance::NodeId::random()));
        fs::create_dir(&folder).unwrap();
        let bind = Mount { r#type: "bind".to_owned(), ..Mount::default() };
        for others in [vec![bind.clone()], vec![overlay(), bind]] {
            let mut mounts = others.clone();
            mount_by_restorer(&mut mounts, &folder).unwrap();
            assert_eq!(mounts, others);
            assert!(!folder.join(FILE).exists());
            mount_root(&folder, Path::new("/none"), None).unwrap();
        }
        let mut mounts = vec![overlay()];
        mount_by_restorer(&mut mounts, &folder).unwrap();
        assert_eq!(mounts, []);
        assert_eq!(fs::read_to_string(folder.join(FILE)).unwrap(), "volatile\nlowerdir=/a:/b");
        fs::remove_dir_all(folder).unwrap();
    }
}
