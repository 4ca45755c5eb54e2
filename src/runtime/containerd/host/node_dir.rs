//! This node's files for its containers.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

use super::tmpfs;
use crate::instance::InstanceId;
use crate::runtime::containerd::network::egress::Record;
use crate::runtime::{OwnFile, StartRequest};
use crate::template::random_hex;

/// The node's folder for containers.
#[derive(Debug)]
pub(crate) struct NodeDir {
    root: PathBuf,
}

/// Where an instance's disk is attached for a moment.
const DISK: &str = "disk";

/// What an instance's output goes through.
const OUTPUT: &str = "output";

/// What it could read from, and never gets anything. A container without it holds this host's `/dev/null` open, and
/// what lies outside of a container cannot be frozen with it.
const INPUT: &str = "input";

/// What is known of its way out.
const OUTLET: &str = "outlet.json";
/// Where a container has what its `/dev/shm` leads to: in its writable layer, which is frozen with the rest.
pub(crate) const SHARED_MEMORY: &str = "/etc/try-it-now/shm";

/// For all that CRIU does. A sealed instance's network need not be locked while it is copied, connections are not
/// copied, databases hold locks, and files that were deleted while open are copied whole.
const CRIU: &str = "network-lock skip\ntcp-close\nfile-locks\nghost-limit 67108864\n";

/// Restores are many, and each line of their log costs time.
const NO_LOG: &str = "log-file /dev/null\n";

/// Where the checkpoints lie in a node's folder for containers.
pub(crate) fn checkpoints(root: &Path) -> PathBuf {
    root.join("golden")
}

impl NodeDir {
    /// Takes it over, and makes what all containers share.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        fs::create_dir_all(root.join("instances"))?;
        fs::write(root.join("criu-freeze.conf"), CRIU)?;
        fs::write(root.join("criu-restore.conf"), format!("{CRIU}{NO_LOG}"))?;
        let folder = Self { root };
        fs::create_dir_all(folder.devices())?;
        make_devices(&folder.devices())?;
        fs::create_dir_all(folder.memory())?;
        Ok(folder)
    }

    /// Makes a link of that name to a program, or renews it: containers that live longer than a server call it.
    pub(crate) fn link(&self, name: &str, program: &Path) -> io::Result<PathBuf> {
        let (link, draft) = (self.root.join(name), self.root.join(format!("{name}.draft")));
        if_there(fs::remove_file(&draft))?;
        symlink(program, &draft)?;
        fs::rename(draft, &link)?;
        Ok(link)
    }

    /// What every container has as its `/dev`.
    pub(crate) fn devices(&self) -> PathBuf {
        self.root.join("dev")
    }

    pub(crate) fn criu_config(&self, restores: bool) -> PathBuf {
        self.root.join(if restores { "criu-restore.conf" } else { "criu-freeze.conf" })
    }

    /// The root of what keeps the shared shim alive.
    pub(crate) fn shim(&self) -> PathBuf {
        self.root.join("shim")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        checkpoints(&self.root)
    }

    /// Where the memory is attached that clones share.
    pub(crate) fn memory(&self) -> PathBuf {
        self.root.join("memory")
    }

    /// The folder of an instance, which CRIU works in too.
    pub(crate) fn of(&self, id: &InstanceId) -> PathBuf {
        self.root.join("instances").join(id.as_str())
    }

    pub(crate) fn output(&self, id: &InstanceId) -> PathBuf {
        self.of(id).join(OUTPUT)
    }

    pub(crate) fn input(&self, id: &InstanceId) -> PathBuf {
        self.of(id).join(INPUT)
    }

    pub(crate) fn disk(&self, id: &InstanceId) -> PathBuf {
        self.of(id).join(DISK)
    }

    /// Makes an instance's folder and the pipes in it, and opens its output for reading. It stays open whether anybody
    /// writes or not.
    pub(crate) fn make(&self, id: &InstanceId) -> io::Result<Receiver> {
        fs::create_dir_all(self.disk(id))?;
        for pipe in [self.input(id), self.output(id)] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        self.open_output(id)
    }

    pub(crate) fn open_output(&self, id: &InstanceId) -> io::Result<Receiver> {
        self.open_output_of(id.as_str())
    }

    /// The same by the name of a folder.
    pub(crate) fn open_output_of(&self, id: &str) -> io::Result<Receiver> {
        OpenOptions::new().read_write(true).open_receiver(self.root.join("instances").join(id).join(OUTPUT))
    }

    /// Makes a pipe in an instance's folder for the output of a command in it, and opens it as [`Folder::make`] does.
    pub(crate) fn make_pipe(&self, id: &InstanceId, name: &str) -> io::Result<(PathBuf, Receiver)> {
        let pipe = self.of(id).join(name);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let output = OpenOptions::new().read_write(true).open_receiver(&pipe)?;
        Ok((pipe, output))
    }

    pub(crate) fn remove_pipe(&self, pipe: &Path) -> io::Result<()> {
        if_there(fs::remove_file(pipe))
    }

    /// Notes what the next server must know of an instance's way out.
    pub(crate) fn note_outlet(&self, id: &InstanceId, record: &Record) -> io::Result<()> {
        fs::write(self.of(id).join(OUTLET), serde_json::to_vec(record)?)
    }

    /// What was noted; `None` for an instance without a way out.
    pub(crate) fn outlet(&self, id: &InstanceId) -> io::Result<Option<Record>> {
        match fs::read(self.of(id).join(OUTLET)) {
            Ok(record) => Ok(Some(serde_json::from_slice(&record)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        let folder = self.root.join("instances").join(id);
        // A server may have crashed while it was attached, and its files are the instance's.
        tmpfs::detach(&folder.join(DISK))?;
        if_there(fs::remove_dir_all(folder))
    }

    /// All instances that have a folder.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(self.root.join("instances"))?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}

/// Makes what a container has in its `/dev`.
pub(crate) fn make_devices(devices: &Path) -> io::Result<()> {
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = devices.join(name);
        if_new(
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), makedev(major, minor))
                .map_err(io::Error::from),
        )?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("shm", SHARED_MEMORY),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        if_new(symlink(target, devices.join(name)))?;
    }
    Ok(())
}

/// What engines put into every container.
pub(crate) fn furniture() -> [OwnFile; 2] {
    [("/etc/hosts", "127.0.0.1\tlocalhost instance\n"), ("/etc/hostname", "instance\n")]
        .map(|(path, content)| OwnFile::new(path, content))
}

/// Tells an instance with a way out whom to ask for names, whatever its image or its checkpoint says.
pub(crate) fn name_resolvers(resolv_conf: String) -> OwnFile {
    OwnFile::new("/etc/resolv.conf", resolv_conf)
}

/// What tells an instance who it is, in files below `/etc/try-it-now`: `id`, `url`, `host`, and `seed`, random text of
/// its own from which an app can derive its salts and keys. A restored process knows from its environment only what the
/// one knew that was frozen.
pub(crate) fn introduction(order: &StartRequest) -> io::Result<[OwnFile; 4]> {
    let seed = random_hex::<32>()?;
    let files = [("id", order.id.as_str()), ("url", &order.url), ("host", &order.host), ("seed", &seed)];
    Ok(files.map(|(name, text)| OwnFile::new(format!("/etc/try-it-now/{name}"), text)))
}

fn if_new(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn if_there(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
