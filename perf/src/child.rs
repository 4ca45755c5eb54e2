//! Processes of ours, each bound to a core and ended with its handle.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::Failure;
use crate::clock::{now, processor_time};
use crate::cores;
use crate::roles::Role;

/// Longest time until a child listens.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time until a child ends that was asked to.
const LEAVE: Duration = Duration::from_secs(40);
/// The file of what a child says.
const SAID: &str = "said";

/// A running child that listens. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it said, if that is kept, and whatever else is to go with it.
    folder: Option<PathBuf>,
}

impl Running {
    /// This program in another role.
    pub(crate) fn role(role: Role, core: usize) -> Result<Self, Failure> {
        let name = match role {
            Role::Echo => "echo",
            Role::Plain => "plain",
            Role::Leash => return Err("it takes a program".into()),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command, core)?;
        let out = child.stdout.take().ok_or("the child has no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let port: u16 = line.trim().parse().map_err(|_| format!("{name} did not say its port"))?;
        Ok(Self { child, address: local(port), folder: None })
    }

    /// A program that takes its port from a variable and writes what it has to say to a file in `folder`, which is
    /// removed with it. Returns when it takes connections.
    pub(crate) fn listening(
        name: &str,
        mut command: Command,
        port_variable: &str,
        folder: PathBuf,
        core: usize,
    ) -> Result<Self, Failure> {
        let port = TcpListener::bind(local(0))?.local_addr()?.port();
        let said = folder.join(SAID);
        command.env(port_variable, port.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(&said)?);
        let child = spawn(&mut command, core)?;
        let mut running = Self { child, address: local(port), folder: Some(folder) };
        let begin = now();
        while std::net::TcpStream::connect(running.address).is_err() {
            if let Some(status) = running.child.try_wait()? {
                let why = std::fs::read_to_string(&said).unwrap_or_default();
                return Err(format!("{name} ended, {status}: {why}").into());
            }
            if now() >= begin + PATIENCE {
                return Err(format!("{name} does not listen").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    /// What it has used of the processor so far.
    pub(crate) fn processor_time(&self) -> Duration {
        processor_time(self.child.id()).unwrap_or_default()
    }

    /// What it wrote to its standard error so far, where that is kept.
    pub(crate) fn said(&self) -> io::Result<String> {
        self.folder.as_ref().map_or(Ok(String::new()), |folder| std::fs::read_to_string(folder.join(SAID)))
    }

    /// Asks it to end, and waits until it has. One that does not is killed.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = now() + LEAVE;
        while self.child.try_wait()?.is_none() {
            if now() >= deadline {
                return Err("a child does not end when asked to".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// A child inherits the core of the thread that starts it, which is this one, so that it also ends with this one.
fn spawn(command: &mut Command, core: usize) -> io::Result<Child> {
    cores::on(core, || command.spawn())
}

/// A command that ends with this program, however this program ends: this program itself is started first, to say so
/// to the system, and becomes the other.
pub(crate) fn leashed(program: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", "leash"]).arg(program);
    Ok(command)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A new folder for one child.
pub(crate) fn folder() -> io::Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("try-it-now-perf-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
