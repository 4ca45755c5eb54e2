//! The launcher: the process that becomes the app.
//!
//! It sets what can only be set in the new process itself: session, death signal, limits. To set these between `fork`
//! and `exec` would need unsafe code, so this is a program of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{
    Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal, setrlimit, setsid,
};

use super::protocol::{LaunchRequest, encode_line, working_directory};

/// Name of the internal command.
pub(super) const NAME: &str = "internal-launcher";

/// In the guardian: starts the launcher, whose output is the guardian's standard error. The stream ends without data
/// when the app runs; otherwise it carries the reason why it does not.
pub(super) fn spawn() -> io::Result<(Child, UnixStream)> {
    let (to_launcher, of_launcher) = UnixStream::pair()?;
    let output = || io::stderr().as_fd().try_clone_to_owned();
    // Not by the path of this program: that file may have been replaced by another version.
    let child = Command::new("/proc/self/exe")
        .arg(NAME)
        .arg(getpid().as_raw_nonzero().to_string())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(of_launcher)))
        .stdout(output()?)
        .stderr(output()?)
        .spawn()?;
    Ok((child, to_launcher))
}

/// In the guardian: sends the launch request to the launcher and waits until it has become the app.
pub(super) fn send_request(mut stream: UnixStream, launch: &LaunchRequest) -> Result<(), String> {
    // If the launcher is dead, the guardian learns its exit status from the system, as with the app.
    let _ = encode_line(launch).and_then(|request| stream.write_all(&request));
    let _ = stream.shutdown(Shutdown::Write);
    let mut why = String::new();
    let _ = stream.read_to_string(&mut why);
    if why.is_empty() { Ok(()) } else { Err(why) }
}

/// In the launcher: becomes the app. Returns only on failure.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // Closes on `exec`; standard input itself is replaced by `/dev/null`.
    let Ok(stream) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut stream = UnixStream::from(stream);
    let guardian = args.next().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let why = become_app(&mut stream, guardian);
    let _ = stream.write_all(why.as_bytes());
    ExitCode::FAILURE
}

fn become_app(stream: &mut UnixStream, guardian: Option<i32>) -> String {
    match prepare(stream, guardian) {
        Ok((launch, program)) => {
            let error = Command::new(&program)
                .arg0(&launch.command[0])
                .args(&launch.command[1..])
                .env_clear()
                .envs(&launch.env)
                .stdin(Stdio::null())
                .exec();
            let hint = if error.kind() == io::ErrorKind::NotFound && program.exists() {
                ", though the file is there: the interpreter that it names is missing"
            } else {
                ""
            };
            format!("cannot run the program {}: {error}{hint}", launch.command[0])
        }
        Err(why) => why,
    }
}

fn prepare(stream: &mut UnixStream, guardian: Option<i32>) -> Result<(LaunchRequest, PathBuf), String> {
    let because = |what: &'static str| move |e: io::Error| format!("cannot {what}: {e}");
    setsid().map_err(|e| because("begin a new session")(e.into()))?;
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| because("set its death signal")(e.into()))?;
    // The guardian may have died before the death signal was set.
    if guardian.is_none() || getppid().map(|pid| pid.as_raw_nonzero().get()) != guardian {
        return Err("its guardian is dead".to_owned());
    }
    let mut request = Vec::new();
    stream.read_to_end(&mut request).map_err(because("read the launch request"))?;
    let launch: LaunchRequest =
        serde_json::from_slice(&request).map_err(|e| because("read the launch request")(e.into()))?;
    apply_limits(&launch).map_err(because("set a resource limit"))?;
    std::env::set_current_dir(working_directory(&launch.folder))
        .map_err(because("enter its working directory"))?;
    let program = find_program(&launch.command[0], &launch.env)?;
    Ok((launch, program))
}

fn apply_limits(launch: &LaunchRequest) -> io::Result<()> {
    let limits = &launch.limits;
    for (resource, soft, hard) in [
        // The hard limit is a second later, so that the exit status shows the cause: SIGXCPU.
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds.map(|s| s.saturating_add(1))),
        (Resource::Data, limits.memory, limits.memory),
        (Resource::Nofile, limits.open_files, limits.open_files),
        (Resource::Fsize, limits.file_size, limits.file_size),
        // A core dump would be as large as the app, and it would be removed unread.
        (Resource::Core, Some(0), Some(0)),
    ] {
        let (Some(soft), Some(hard)) = (soft, hard) else { continue };
        // Where the host allows less than the template, the host's limit applies.
        let host = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let new = Rlimit { current: Some(soft.min(host)), maximum: Some(hard.min(host)) };
        setrlimit(resource, new)?;
    }
    if let (Some(soft), None) = (launch.open_files, limits.open_files) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(
            Resource::Nofile,
            Rlimit { current: Some(soft.min(maximum.unwrap_or(u64::MAX))), maximum },
        )?;
    }
    Ok(())
}

/// Returns the path of `program`: itself if it contains a slash, else the first executable of that name in `PATH`.
fn find_program(program: &str, env: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let path = env.get("PATH").map_or("", String::as_str);
    let runnable =
        |file: &Path| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(path)
        .map(|folder| folder.join(program))
        .find(|file| runnable(file))
        .ok_or_else(|| format!("there is no program {program} in its PATH ({path})"))
}
