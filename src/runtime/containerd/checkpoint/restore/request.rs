//! The arguments with which the shim asks for a restore.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::mount::mount_bind;
use serde_json::{Value, json};

use super::mapped_images;

/// The mounts of folders in the container, and where each is mounted during a restore, in its bundle.
const FOLDERS: [(&str, &str); 2] = [("/dev", "devices"), ("/dev/shm", "shm")];

/// The arguments of `restore`: exactly those that the shim passes. With any other argument the restore is left to runc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RestoreRequest {
    /// The folder in which runc has a folder of state for each container.
    pub(super) root: PathBuf,
    pub(super) log: PathBuf,
    /// The folder of the checkpoint's images.
    pub(super) images: PathBuf,
    /// The folder of the images that CRIU reads.
    pub(super) mapped_images: PathBuf,
    /// The first id on the host of the container's user namespace, if it has one.
    pub(super) first_id: Option<u32>,
    pub(super) work: PathBuf,
    pub(super) pid_file: PathBuf,
    pub(super) bundle: PathBuf,
    pub(super) id: String,
}

impl RestoreRequest {
    /// Reads the arguments behind the program's name; `None` if runc must do what they ask for.
    pub(super) fn read(arguments: &[OsString]) -> Option<Self> {
        let mut words = arguments.iter().map(|word| word.to_str());
        let (mut root, mut log, mut images, mut work) = (None, None, None, None);
        let (mut pid_file, mut bundle, mut id, mut is_restore) = (None, None, None, false);
        while let Some(word) = words.next() {
            match word? {
                "--root" => root = Some(words.next()??.into()),
                "--log" => log = Some(words.next()??.into()),
                "--log-format" => (words.next()?? == "json").then_some(())?,
                "restore" if !is_restore => is_restore = true,
                "--image-path" => images = Some(words.next()??.into()),
                "--work-path" => work = Some(words.next()??.into()),
                "--pid-file" => pid_file = Some(words.next()??.into()),
                "--bundle" => bundle = Some(words.next()??.into()),
                "--detach" | "-no-subreaper" | "--no-subreaper" => {}
                other if is_restore && !other.starts_with('-') && id.is_none() => id = Some(other.to_owned()),
                _ => return None,
            }
        }
        let id = id.filter(|id| is_restore && !id.contains('/') && !id.starts_with('.'))?;
        let images: PathBuf = images?;
        Some(Self {
            root: root?,
            log: log?,
            mapped_images: images.clone(),
            images,
            first_id: None,
            work: work?,
            pid_file: pid_file?,
            bundle: bundle?,
            id,
        })
    }

    /// Reads the container's specification.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read_spec(&self) -> io::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.spec_file())?)?)
    }

    fn spec_file(&self) -> PathBuf {
        self.bundle.join("config.json")
    }

    /// Has the specification and the arguments for runc name what [`RestoreRequest::make_mapped`] makes, if the container
    /// has a range of ids. Returns the folders to mount: each with where it is mounted.
    ///
    /// # Errors
    /// The specification or the arguments are not as expected.
    pub(super) fn map(
        &mut self,
        spec: &mut Value,
        arguments: &mut Vec<OsString>,
    ) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let Some(first) = spec["linux"]["uidMappings"][0]["hostID"].as_u64() else { return Ok(Vec::new()) };
        self.first_id = Some(u32::try_from(first).map_err(io::Error::other)?);
        self.mapped_images = mapped_images::folder(&self.work);
        // Inside the user namespace no process may enter the server's folders, so each folder of them is mounted where
        // the container's root is.
        let mut folders = Vec::new();
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            let folder = FOLDERS.iter().find(|(inside, _)| mount["destination"] == *inside);
            let Some((_, name)) = folder.filter(|_| mount["type"] == "bind") else { continue };
            let at = self.bundle.join(name);
            let source = mount["source"].as_str().ok_or(io::ErrorKind::InvalidData)?.into();
            mount["source"] = json!(at);
            folders.push((source, at));
        }
        let at = arguments.iter().position(|argument| argument == "--image-path");
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        arguments[at + 1] = self.mapped_images.clone().into();
        // CRIU makes the network namespace, inside the user namespace.
        arguments.splice(at..at, ["--empty-ns", "network"].map(OsString::from));
        Ok(folders)
    }

    /// Makes the images for the container's range of ids, if it has one, mounts these folders and writes the
    /// specification. The caller has a mount namespace of its own.
    ///
    /// # Errors
    /// The images cannot be made, a folder cannot be mounted or the specification cannot be written.
    pub(super) fn make_mapped(&self, spec: &Value, folders: &[(PathBuf, PathBuf)]) -> io::Result<()> {
        let Some(first) = self.first_id else { return Ok(()) };
        mapped_images::create(&self.images, &self.mapped_images, first)?;
        for (source, at) in folders {
            fs::create_dir(at)?;
            mount_bind(source, at)?;
        }
        fs::write(self.spec_file(), serde_json::to_vec(spec)?)
    }

    /// Returns the folder with runc's state of the container.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.root.join(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(line: &str) -> Option<RestoreRequest> {
        RestoreRequest::read(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    const LINE: &str = "--root /r --log /l --log-format json restore --image-path /i --work-path /w --detach --pid-file /p \
                        -no-subreaper --bundle /b shop-1";

    #[test]
    fn the_arguments_of_the_shim_are_read() {
        let request = read(LINE).unwrap();
        assert_eq!(request.id, "shop-1");
        assert_eq!(request.state_dir(), Path::new("/r/shop-1"));
        assert_eq!((request.images, request.work), ("/i".into(), "/w".into()));
    }

    #[test]
    fn any_other_arguments_are_left_to_runc() {
        for line in [
            "--root /r --log /l --log-format json kill --all shop-1 9",
            "--version",
            "",
            &LINE.replace("--detach", "--detach --lazy-pages"),
            &LINE.replace("json", "text"),
            &LINE.replace("--image-path /i ", ""),
            &LINE.replace(" shop-1", ""),
            &LINE.replace("shop-1", "../shop-1"),
            &format!("{LINE} another"),
            &format!("{LINE} --bundle"),
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
