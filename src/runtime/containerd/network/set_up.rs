//! Sets up the network namespace that runc or CRIU makes inside an instance's user namespace. Only the program that makes it
//! knows when it exists: it has [`set_up`] called. No process of the instance runs before.
//!
//! A sealed instance needs no server for that. For one with egress or a database, the server makes two pipes in the instance's
//! folder: one brings it the number of the instance's first process, the other one its answer.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use crate::runtime::containerd::host::shared_accounts::{INOTIFY_INSTANCES, INOTIFY_WATCHES};
use crate::runtime::namespaces::open_loopback_of;

/// The pipe to this server.
const QUESTION: &str = "network-question";
/// The pipe from this server.
const ANSWER: &str = "network-answer";
/// The answer if the network is set up; else it is an error's text.
const DONE: &str = "done";

/// Longest time to wait for the answer.
const DEADLINE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Time between two counts of this process's threads, and the most counts: five seconds. On a busy host a thread that ends
/// has to wait for a processor.
const THREAD_COUNT_INTERVAL: Duration = Duration::from_micros(100);
const MAX_THREAD_COUNTS: u32 = 50_000;

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

/// Waits for the network namespace of one instance whose network the server sets up.
pub(crate) struct NetworkSetUp {
    question: BufReader<Receiver>,
    answer: Sender,
}

impl NetworkSetUp {
    /// Makes the pipes in the instance's folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for pipe in [QUESTION, ANSWER] {
            mknodat(CWD, folder.join(pipe), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        // Open for both, so that no opening waits for the other side.
        let open = || OpenOptions::new().read_write(true).clone();
        let question = BufReader::new(open().open_receiver(folder.join(QUESTION))?);
        let answer = open().open_sender(folder.join(ANSWER))?;
        Ok(Self { question, answer })
    }

    /// Answers every question, for as long as the caller polls: sets up the network of the process with the number that
    /// `set_up` gets. A failed restore by CRIU may be followed by another one.
    pub(crate) async fn serve<F>(mut self, set_up: impl Fn(i32) -> F) -> Infallible
    where
        F: Future<Output = io::Result<()>>,
    {
        loop {
            let mut line = String::new();
            if self.question.read_line(&mut line).await.is_err() {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            let outcome = match line.trim().parse() {
                Ok(pid) => set_up(pid).await,
                Err(error) => Err(io::Error::other(error)),
            };
            let answer = match outcome {
                Ok(()) => DONE.to_owned(),
                Err(error) => error.to_string().replace('\n', " "),
            };
            let _ = self.answer.write_all(format!("{answer}\n").as_bytes()).await;
        }
    }
}

/// Sets up the network namespace of a process of the instance with this folder. This process must have a single thread.
///
/// # Errors
/// The kernel refuses, or the server that sets the network up fails or is gone.
pub(crate) fn set_up(folder: &Path, pid: i32) -> io::Result<()> {
    match fs::exists(folder.join(QUESTION))? {
        true => ask(folder, pid),
        false => open_loopback_of(pid),
    }
}

/// Has the server set up the network namespace of a process.
fn ask(folder: &Path, pid: i32) -> io::Result<()> {
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

/// Enters the user namespace of a process for good and sets its limits. This process must have a single thread, and others
/// that are about to end.
///
/// # Errors
/// The namespace cannot be entered, a limit cannot be set, or another thread does not end.
pub(crate) fn enter_and_limit(pid: i32) -> io::Result<()> {
    let count = || Ok(fs::read_dir("/proc/self/task")?.count());
    wait_for_single_thread(count, || std::thread::sleep(THREAD_COUNT_INTERVAL))?;
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

/// Waits until a process has a single thread. A thread that was joined still exists for a moment, and a process with two
/// threads may enter no user namespace: the kernel answers with EINVAL.
///
/// # Errors
/// The threads cannot be counted, or the others do not end in time.
fn wait_for_single_thread(mut count: impl FnMut() -> io::Result<usize>, pause: impl Fn()) -> io::Result<()> {
    for _ in 0..MAX_THREAD_COUNTS {
        if count()? == 1 {
            return Ok(());
        }
        pause();
    }
    Err(io::Error::other("a thread does not end, so the user namespace cannot be entered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_late_is_waited_for_and_one_that_does_not_end_is_an_error() {
        let mut counts = [3, 2, 1, 2].into_iter();
        wait_for_single_thread(|| Ok(counts.next().unwrap()), || ()).unwrap();
        assert_eq!(counts.next(), Some(2), "it stops at the first count of one");
        let mut asked = 0;
        let count = || {
            asked += 1;
            Ok(2)
        };
        assert!(wait_for_single_thread(count, || ()).unwrap_err().to_string().contains("does not end"));
        assert_eq!(asked, MAX_THREAD_COUNTS);
        let refused = wait_for_single_thread(|| Err(io::ErrorKind::PermissionDenied.into()), || ());
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
