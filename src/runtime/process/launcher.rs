//! The launcher: the process that becomes the app.
//!
//! What has to be set in the new process itself is set here, in a program of our own, since doing it between
//! `fork` and `exec` takes unsafe code.

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

use super::protocol::{Launch, line, working_directory};

/// The internal subcommand.
pub(super) const NAME: &str = "internal-launcher";

/// In the guardian: starts the launcher, its output being the guardian's standard error. The stream ends when
/// the app runs, with nothing read from it, or else gives the reason why it does not.
pub(super) fn spawn() -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let output = || io::stderr().as_fd().try_clone_to_owned();
    // Not the path of our program: that file may have been replaced by another version.
    let child = Command::new("/proc/self/exe")
        .arg(NAME)
        .arg(getpid().as_raw_nonzero().to_string())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(output()?)
        .stderr(output()?)
        .spawn()?;
    Ok((child, ours))
}

/// In the guardian: hands the launcher its order and waits until it has become the app.
pub(super) fn order(mut stream: UnixStream, launch: &Launch) -> Result<(), String> {
    // When the launcher is dead, the guardian learns how from the system, as it does with the app.
    let _ = line(launch).and_then(|order| stream.write_all(&order));
    let _ = stream.shutdown(Shutdown::Write);
    let mut why = String::new();
    let _ = stream.read_to_string(&mut why);
    if why.is_empty() { Ok(()) } else { Err(why) }
}

/// In the launcher. Returns only on failure.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // A copy that closes when the app takes over; standard input itself is replaced by nothing.
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
            format!("the program {} cannot be run: {error}{hint}", launch.command[0])
        }
        Err(why) => why,
    }
}

fn prepare(stream: &mut UnixStream, guardian: Option<i32>) -> Result<(Launch, PathBuf), String> {
    let because = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    setsid().map_err(|e| because("a new session")(e.into()))?;
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| because("the tie to its guardian")(e.into()))?;
    // The guardian may have died before the tie was made.
    if guardian.is_none() || getppid().map(|pid| pid.as_raw_nonzero().get()) != guardian {
        return Err("its guardian is dead".to_owned());
    }
    let mut order = Vec::new();
    stream.read_to_end(&mut order).map_err(because("its order"))?;
    let launch: Launch = serde_json::from_slice(&order).map_err(|e| because("its order")(e.into()))?;
    limit(&launch).map_err(because("a limit on resources"))?;
    std::env::set_current_dir(working_directory(&launch.folder)).map_err(because("its working directory"))?;
    let program = find(&launch.command[0], &launch.env)?;
    Ok((launch, program))
}

fn limit(launch: &Launch) -> io::Result<()> {
    let limits = &launch.limits;
    for (resource, soft, hard) in [
        // A second more before the kill, so that the end shows its cause: SIGXCPU.
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds.map(|s| s.saturating_add(1))),
        (Resource::Data, limits.memory, limits.memory),
        (Resource::Nofile, limits.open_files, limits.open_files),
        (Resource::Fsize, limits.file_size, limits.file_size),
        // A dump would be as large as the app and nobody reads it.
        (Resource::Core, Some(0), Some(0)),
    ] {
        let (Some(soft), Some(hard)) = (soft, hard) else { continue };
        // Where the host allows less than the template, the host's limit stays.
        let host = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let new = Rlimit { current: Some(soft.min(host)), maximum: Some(hard.min(host)) };
        setrlimit(resource, new)?;
    }
    Ok(())
}

/// The file that `program` means: itself when it holds a slash, else the first runnable one in `PATH`.
fn find(program: &str, env: &BTreeMap<String, String>) -> Result<PathBuf, String> {
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
