//! Sets up the network namespace that runc or CRIU makes inside an instance's user namespace. Only the program that makes it
//! knows when it exists: it has [`ask`] called, which sends this server the instance's first process through two pipes in
//! the instance's folder and waits for the answer. No process of the instance runs before.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use super::egress::EgressLinks;
use super::namespaces::{Namespaces, open_loopback};
use crate::runtime::containerd::host::shared_accounts::{INOTIFY_INSTANCES, INOTIFY_WATCHES};

/// The pipe to this server.
const QUESTION: &str = "network-question";
/// The pipe from this server.
const ANSWER: &str = "network-answer";
/// The answer if the network is set up; else it is an error's text.
const DONE: &str = "done";

/// Longest time to wait for the answer.
const DEADLINE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Longest pause after a question that cannot be read.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Limits of a user namespace. Without them an instance could use up what the kernel allows to the user who made the
/// namespaces of all instances. It needs no namespaces of its own.
const LIMITS: [(&str, u32); 11] = [
    ("max_inotify_instances", INOTIFY_INSTANCES),
    ("max_inotify_watches", INOTIFY_WATCHES),
    ("max_fanotify_groups", 0),
    ("max_cgroup_namespaces", 0),
    ("max_ipc_namespaces", 0),
    ("max_mnt_namespaces", 0),
    ("max_net_namespaces", 0),
    ("max_pid_namespaces", 0),
    ("max_time_namespaces", 0),
    ("max_user_namespaces", 0),
    ("max_uts_namespaces", 0),
];

/// Waits for the network of one instance, and sets it up.
pub(crate) struct NetworkSetUp {
    question: BufReader<Receiver>,
    answer: Sender,
    namespaces: Arc<Namespaces>,
    egress_links: Arc<EgressLinks>,
    /// The number under which the namespace will be held.
    number: u32,
    /// The slot of the egress link; `None` for a sealed instance.
    link: Option<u32>,
}

impl NetworkSetUp {
    /// Makes the pipes in the instance's folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn open(
        folder: &Path,
        namespaces: Arc<Namespaces>,
        egress_links: Arc<EgressLinks>,
        number: u32,
        link: Option<u32>,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for pipe in [QUESTION, ANSWER] {
            mknodat(CWD, folder.join(pipe), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        // Open for both, so that no opening waits for the other side.
        let open = || OpenOptions::new().read_write(true).clone();
        let question = BufReader::new(open().open_receiver(folder.join(QUESTION))?);
        let answer = open().open_sender(folder.join(ANSWER))?;
        Ok(Self { question, answer, namespaces, egress_links, number, link })
    }

    /// Answers every question, for as long as the caller polls. A failed restore by CRIU may be followed by another one.
    pub(crate) async fn serve(mut self) -> Infallible {
        loop {
            let mut line = String::new();
            if self.question.read_line(&mut line).await.is_err() {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            let answer = match self.set_up(line.trim()).await {
                Ok(()) => DONE.to_owned(),
                Err(error) => error.to_string().replace('\n', " "),
            };
            let _ = self.answer.write_all(format!("{answer}\n").as_bytes()).await;
        }
    }

    async fn set_up(&self, pid: &str) -> io::Result<()> {
        let pid: u32 = pid.parse().map_err(io::Error::other)?;
        let namespace = Arc::new(File::open(format!("/proc/{pid}/ns/net"))?);
        match self.link {
            Some(link) => self.egress_links.attach(link, namespace.clone()).await?,
            None => open_loopback(namespace.clone()).await?,
        }
        self.namespaces.hold_as(self.number, namespace);
        Ok(())
    }
}

/// Has the server of the instance with this folder set up the network namespace of a process.
///
/// # Errors
/// The server fails or is gone.
pub(crate) fn ask(folder: &Path, pid: i32) -> io::Result<()> {
    // Without a server that reads, this fails instead of waiting.
    let mut question = File::from(rustix::fs::open(
        folder.join(QUESTION),
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let mut answer = File::from(rustix::fs::open(
        folder.join(ANSWER),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    writeln!(question, "{pid}")?;
    let mut text = String::new();
    while !text.ends_with('\n') {
        let ready = poll(&mut [PollFd::new(&answer, PollFlags::IN)], Some(&DEADLINE))?;
        let mut part = [0; 256];
        let read = if ready == 0 { Err(io::ErrorKind::TimedOut.into()) } else { answer.read(&mut part) };
        match read? {
            0 => return Err(io::Error::other("the server is gone")),
            count => text.push_str(&String::from_utf8_lossy(&part[..count])),
        }
    }
    match text.trim_end() {
        DONE => Ok(()),
        why => Err(io::Error::other(format!("the network: {why}"))),
    }
}

/// Enters the user namespace of a process for good and sets its limits. This process must have a single thread.
///
/// # Errors
/// The namespace cannot be entered, or a limit cannot be set.
pub(crate) fn enter_and_limit(pid: i32) -> io::Result<()> {
    setns(File::open(format!("/proc/{pid}/ns/user"))?, CloneFlags::CLONE_NEWUSER)?;
    for (name, value) in LIMITS {
        match fs::write(Path::new("/proc/sys/user").join(name), value.to_string()) {
            // The kernel lacks what is limited.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}
