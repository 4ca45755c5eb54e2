//! Child processes, each bound to a core and killed when its handle is dropped.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::clock::now;
use crate::cpu;
use crate::failure::Failure;
use crate::peers::Role;

/// Maximum time until a child listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time until a child ends after `SIGTERM`.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// The name of the file with the standard error of a child.
const STDERR_FILE: &str = "stderr";

/// A running child that listens at a port. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
    /// The address at which it listens.
    pub(crate) address: SocketAddr,
    /// The folder with its standard error and its other files, removed when dropped.
    folder: Option<PathBuf>,
}

impl ChildProcess {
    /// Starts this program in another role.
    pub(crate) fn role(role: Role, core: usize) -> Result<Self, Failure> {
        let name = role.name();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", name]).env_remove("PORT").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command, core)?;
        let out = child.stdout.take().ok_or("the child has no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let port: u16 = line.trim().parse().map_err(|_| format!("{name} did not print its port"))?;
        Ok(Self { child, address: local(port), folder: None })
    }

    /// Starts a program that takes its port from a variable. Its standard error goes to a file in `folder`, which is
    /// removed when the child is dropped. Returns when the program accepts connections.
    pub(crate) fn listening(
        name: &str,
        mut command: Command,
        port_variable: &str,
        folder: PathBuf,
        core: usize,
    ) -> Result<Self, Failure> {
        let address = free_address()?;
        command.env(port_variable, address.port().to_string());
        Self::listening_at(name, command, address, folder, core)
    }

    /// Starts a program that listens at an address, as [`ChildProcess::listening`] does.
    pub(crate) fn listening_at(
        name: &str,
        mut command: Command,
        address: SocketAddr,
        folder: PathBuf,
        core: usize,
    ) -> Result<Self, Failure> {
        let stderr = folder.join(STDERR_FILE);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(&stderr)?);
        let child = spawn(&mut command, core)?;
        let mut running = Self { child, address, folder: Some(folder) };
        let begin = now();
        while std::net::TcpStream::connect(running.address).is_err() {
            if let Some(status) = running.child.try_wait()? {
                let why = std::fs::read_to_string(&stderr).unwrap_or_default();
                return Err(format!("{name} ended, {status}: {why}").into());
            }
            if now() >= begin + START_TIMEOUT {
                return Err(format!("{name} does not listen").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    /// Returns the processor time that the child has used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        cpu::time_of(self.child.id()).unwrap_or_default()
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the standard error of the child so far; empty if it is not stored.
    pub(crate) fn stderr(&self) -> io::Result<String> {
        self.folder
            .as_ref()
            .map_or(Ok(String::new()), |folder| std::fs::read_to_string(folder.join(STDERR_FILE)))
    }

    /// Sends `SIGTERM`, and waits until the child has ended. A child that does not end is killed.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if now() >= deadline {
                return Err("a child did not end after SIGTERM".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // The child may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Starts a child on a core. It inherits the core of this thread, and it is this thread whose end ends the child.
fn spawn(command: &mut Command, core: usize) -> io::Result<Child> {
    cpu::on(core, || command.spawn())
}

/// Returns a command for a program that the system kills when this program ends, in whatever way. This program is
/// started first in the role that asks the system for that, and then executes the other program.
pub(crate) fn killed_with_this(program: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", "exec"]).arg(program);
    Ok(command)
}

/// Returns a local address at which nothing listens.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(local(0))?.local_addr()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Creates a folder for one child.
pub(crate) fn folder() -> io::Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("try-it-now-perf-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
