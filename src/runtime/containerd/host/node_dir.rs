//! The node's folder for its containers.
//!
//! A newer server takes over what an older one left: names of files here must not change.

use std::fs::{self, Permissions};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::unix::pipe::{OpenOptions, Receiver};

use super::{private_files, tmpfs};
use crate::instance::InstanceId;
use crate::runtime::InstanceFile;
use crate::runtime::containerd::checkpoint::randomness::node_script;
use crate::runtime::containerd::network::database_port::DatabasePortRecord;
use crate::runtime::containerd::network::egress::EgressRecord;

/// The node's folder for containers.
#[derive(Debug)]
pub(crate) struct NodeDir {
    root: PathBuf,
}

/// Name of the folder where an instance's disk is attached while it is started.
const DISK_DIR: &str = "disk";

/// Name of the pipe for an instance's output.
const OUTPUT_PIPE: &str = "output";

/// Name of the pipe for an instance's input, to which nothing is ever written. Without it a container would hold this
/// host's `/dev/null` open from outside, and CRIU cannot freeze a container with it.
const INPUT_PIPE: &str = "input";

/// The record of an instance's egress link. A newer server reads what an older one wrote, so the names stay.
pub(crate) const EGRESS_RECORD: RecordFile<EgressRecord> = RecordFile("outlet.json", PhantomData);
/// The record of an instance's database port.
pub(crate) const DATABASE_PORT_RECORD: RecordFile<DatabasePortRecord> =
    RecordFile("database-port.json", PhantomData);

/// The name of a file in an instance's folder that holds a record for the next server, and what the record is.
pub(crate) struct RecordFile<T>(&'static str, PhantomData<T>);

/// CRIU's options for freezing and restoring. The network of a sealed instance need not be locked: it has nothing but a
/// loopback, and a lock wants iptables or nft and takes long. Connections between processes of the instance go on; the
/// bake closes all others in the images (`checkpoint/connections.rs`), and one that no process has accepted is lost.
/// Databases hold file locks. Deleted files that are still open are stored completely, up to this size in bytes, or get a
/// name again if they belong to a lower layer or have another name.
const CRIU_OPTIONS: &str =
    "network-lock skip\ntcp-established\nskip-in-flight\nfile-locks\nlink-remap\nghost-limit 1073741824\n";

/// CRIU's additional options for restoring: there are many restores, and writing the log takes time.
const NO_LOG_OPTION: &str = "log-file /dev/null\n";

/// Name of the folder for checkpoints.
const CHECKPOINTS: &str = "golden";

/// Returns the folder for checkpoints in a node's folder for containers.
pub(crate) fn checkpoints_dir(root: &Path) -> PathBuf {
    root.join(CHECKPOINTS)
}

impl NodeDir {
    /// Opens the folder, and makes what all containers share.
    ///
    /// # Errors
    /// The folder cannot be written, or device files cannot be made.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        private_files::create_folder(&root)?;
        fs::create_dir_all(root.join("instances"))?;
        fs::write(root.join("criu-freeze.conf"), CRIU_OPTIONS)?;
        fs::write(root.join("criu-restore.conf"), format!("{CRIU_OPTIONS}{NO_LOG_OPTION}"))?;
        let node_dir = Self { root };
        fs::create_dir_all(node_dir.devices())?;
        create_devices(&node_dir.devices())?;
        fs::create_dir_all(node_dir.shared_memory_dir())?;
        Ok(node_dir)
    }

    /// Makes or renews a link to a program, and returns the link's path.
    ///
    /// A shim runs the link for the whole life of its container, which may be longer than the server's. So each server
    /// that starts renews the link; without it no instance could be ended.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn renew_link(&self, name: &str, program: &Path) -> io::Result<PathBuf> {
        let (link, draft) = (self.root.join(name), self.root.join(format!("{name}.draft")));
        ignore_missing(fs::remove_file(&draft))?;
        symlink(program, &draft)?;
        fs::rename(draft, &link)?;
        Ok(link)
    }

    /// Returns the folder that becomes `/dev` in every container without shared memory.
    pub(crate) fn devices(&self) -> PathBuf {
        // Not `dev`: containers of earlier versions have that folder, with a link at the place of `/dev/shm`.
        self.root.join("devices")
    }

    /// Returns the file with CRIU's options, for restoring or for freezing.
    pub(crate) fn criu_config(&self, is_restore: bool) -> PathBuf {
        self.root.join(if is_restore { "criu-restore.conf" } else { "criu-freeze.conf" })
    }

    /// Returns the root file system of the container that keeps the shared shim alive.
    pub(crate) fn shim_root(&self) -> PathBuf {
        self.root.join("shim")
    }

    /// Returns the folder for checkpoints.
    pub(crate) fn checkpoints_dir(&self) -> PathBuf {
        checkpoints_dir(&self.root)
    }

    /// Returns the folder where the shared memory of checkpoints is mounted.
    pub(crate) fn shared_memory_dir(&self) -> PathBuf {
        self.root.join("memory")
    }

    /// Returns an instance's folder, in which CRIU works too.
    pub(crate) fn instance_dir(&self, id: &InstanceId) -> PathBuf {
        self.root.join("instances").join(id.as_str())
    }

    /// Returns the pipe for an instance's output.
    pub(crate) fn output_pipe(&self, id: &InstanceId) -> PathBuf {
        self.instance_dir(id).join(OUTPUT_PIPE)
    }

    /// Returns the pipe for an instance's input.
    pub(crate) fn input_pipe(&self, id: &InstanceId) -> PathBuf {
        self.instance_dir(id).join(INPUT_PIPE)
    }

    /// Returns the folder where an instance's disk is attached while it is started.
    pub(crate) fn disk_mount_point(&self, id: &InstanceId) -> PathBuf {
        self.instance_dir(id).join(DISK_DIR)
    }

    /// Makes an instance's folder and its pipes, and opens the output for reading. The pipe is opened for writing too,
    /// so that the reader sees no end of the output while no process writes.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn create_instance_dir(&self, id: &InstanceId) -> io::Result<Receiver> {
        fs::create_dir_all(self.disk_mount_point(id))?;
        for pipe in [self.input_pipe(id), self.output_pipe(id)] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        self.open_output(id)
    }

    /// Opens an instance's output for reading, like [`NodeDir::create_instance_dir`].
    ///
    /// # Errors
    /// There is no such pipe.
    pub(crate) fn open_output(&self, id: &InstanceId) -> io::Result<Receiver> {
        self.open_output_by_name(id.as_str())
    }

    /// Opens the output pipe in the instance folder of this name for reading.
    ///
    /// # Errors
    /// There is no such pipe.
    pub(crate) fn open_output_by_name(&self, id: &str) -> io::Result<Receiver> {
        OpenOptions::new()
            .read_write(true)
            .open_receiver(self.root.join("instances").join(id).join(OUTPUT_PIPE))
    }

    /// Makes a pipe in an instance's folder for the output of a command, and opens it like
    /// [`NodeDir::create_instance_dir`].
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn create_pipe(&self, id: &InstanceId, name: &str) -> io::Result<(PathBuf, Receiver)> {
        let pipe = self.instance_dir(id).join(name);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let output = OpenOptions::new().read_write(true).open_receiver(&pipe)?;
        Ok((pipe, output))
    }

    /// Removes a pipe. One that does not exist is no error.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn remove_pipe(&self, pipe: &Path) -> io::Result<()> {
        ignore_missing(fs::remove_file(pipe))
    }

    /// Stores what the next server needs to know about a part of an instance.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn save_record<T: Serialize>(
        &self,
        id: &InstanceId,
        file: RecordFile<T>,
        record: &T,
    ) -> io::Result<()> {
        fs::write(self.instance_dir(id).join(file.0), serde_json::to_vec(record)?)
    }

    /// Returns what is stored about a part of an instance; `None` for an instance without that part.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn record<T: DeserializeOwned>(
        &self,
        id: &InstanceId,
        file: RecordFile<T>,
    ) -> io::Result<Option<T>> {
        match fs::read(self.instance_dir(id).join(file.0)) {
            Ok(record) => Ok(Some(serde_json::from_slice(&record)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes an instance's folder. One that does not exist is no error.
    ///
    /// # Errors
    /// An entry cannot be removed.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        let folder = self.root.join("instances").join(id);
        // If a server crashed while the disk was attached, it must be detached before the folder's files are removed.
        tmpfs::detach(&folder.join(DISK_DIR))?;
        ignore_missing(fs::remove_dir_all(folder))
    }

    /// Returns the names of all instance folders.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn list_instances(&self) -> io::Result<Vec<String>> {
        instances_in(&self.root)
    }
}

/// Returns the names of all instance folders in a node's folder for containers.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn instances_in(root: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(root.join("instances"))?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Makes the device files and links of a container's `/dev`. Existing ones are kept.
///
/// # Errors
/// The folder cannot be written, or device files cannot be made.
pub(crate) fn create_devices(devices: &Path) -> io::Result<()> {
    // Where the terminals and the shared memory of each container are mounted.
    for folder in ["pts", "shm"] {
        ignore_existing(fs::create_dir(devices.join(folder)))?;
    }
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = devices.join(name);
        ignore_existing(
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), makedev(major, minor))
                .map_err(io::Error::from),
        )?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("ptmx", "pts/ptmx"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        ignore_existing(symlink(target, devices.join(name)))?;
    }
    Ok(())
}

/// Returns the files that container engines put into every container.
pub(crate) fn base_files() -> [InstanceFile; 3] {
    [
        ("/etc/hosts", "127.0.0.1\tlocalhost instance\n"),
        ("/etc/hostname", "instance\n"),
        (node_script::SCRIPT_PATH, node_script::SCRIPT),
    ]
    .map(|(path, content)| InstanceFile::new(path, content))
}

/// Returns the file that names an instance's name servers, whatever its image or its checkpoint contains.
pub(crate) fn resolv_conf_file(resolv_conf: String) -> InstanceFile {
    InstanceFile::new("/etc/resolv.conf", resolv_conf)
}

fn ignore_existing(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
