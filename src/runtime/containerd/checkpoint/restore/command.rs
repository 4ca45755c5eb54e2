//! The entry point: decides whether CRIU or runc does what the shim asks for.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};
use serde_json::{Value, json};

use super::criu_restore::{self, StartedRestore};
use super::huge_pages;
use super::request::RestoreRequest;
use super::root::mount_root;
use super::runc_state::RuncState;
use crate::runtime::containerd::network::set_up as network_set_up;
use crate::runtime::containerd_process::{find_program, own_search_path};

/// The name of the link to this program by which it is called in place of runc.
pub(crate) const LINK_NAME: &str = "try-it-now-runc";

/// The command of the link that is a hook of runc when it creates a container; the instance's folder follows.
pub(crate) const SET_UP_COMMAND: &str = "set-up-network";

/// The command of the link that is a hook of runc when it restores a container; the instance's folder follows.
pub(crate) const SET_UP_RESTORED_COMMAND: &str = "set-up-restored-network";

/// The program for everything else, looked up in `PATH`.
const RUNC: &str = "runc";

/// Acts as runc if the program was called by [`LINK_NAME`]; else returns `None`. `arguments` begin with the program's
/// name.
pub(crate) fn run_internal_command(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program = arguments.next()?;
    if Path::new(&program).file_name() != Some(OsStr::new(LINK_NAME)) {
        return None;
    }
    huge_pages::avoid();
    let arguments: Vec<OsString> = arguments.collect();
    if let [command, folder] = arguments.as_slice() {
        let folder = Path::new(folder);
        if command == SET_UP_COMMAND {
            return Some(set_up(folder, network_set_up::enter_and_limit));
        }
        if command == SET_UP_RESTORED_COMMAND {
            // CRIU makes more namespaces, so the limits follow when it is done.
            return Some(set_up(folder, |_| Ok(())));
        }
    }
    Some(match RestoreRequest::read(&arguments) {
        Some(request) => restore(&request, &arguments),
        None => become_runc(&arguments),
    })
}

/// Acts as a hook of runc: has the network of a container set up, and then calls `limit` with its first process. `folder`
/// is the instance's.
fn set_up(folder: &Path, limit: impl FnOnce(i32) -> io::Result<()>) -> ExitCode {
    let done = io::read_to_string(io::stdin()).and_then(|state| {
        let state: Value = serde_json::from_str(&state)?;
        let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("runc named no process"))?;
        network_set_up::set_up(folder, pid)?;
        limit(pid)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{LINK_NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Restores with CRIU where that is possible, else with runc.
fn restore(request: &RestoreRequest, arguments: &[OsString]) -> ExitCode {
    let mut request = request.clone();
    let mut arguments = arguments.to_vec();
    if let Err(error) = leave_mount_namespace() {
        return fail(&request, &format!("a mount namespace for the restore: {error}"));
    }
    let mut spec = match request.read_spec() {
        Ok(spec) => spec,
        Err(error) => return fail(&request, &format!("the container's specification: {error}")),
    };
    let folders = match request.map(&mut spec, &mut arguments) {
        Ok(folders) => folders,
        Err(error) => return fail(&request, &format!("the container's range of ids: {error}")),
    };
    let state_dir = request.state_dir();
    let runc = find_program(RUNC, &own_search_path());
    let state = runc.as_ref().and_then(|runc| RuncState::find(&request.images, runc, &spec, &request.id));
    // What differs from what is expected is left to runc. CRIU loads while this process makes the rest.
    let started = state.and_then(|state| start_criu(&request, &spec, state, &state_dir).ok());
    if let Err(error) = request.make_mapped(&spec, &folders) {
        return fail(&request, &format!("images for the user namespace: {error}"));
    }
    if let Err(error) = mount_root(&request.work, &request.bundle, request.first_id) {
        return fail(&request, &format!("the container's root: {error}"));
    }
    match (started, runc) {
        (Some(started), _) if started.has_mount_points() => match started.restore() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&request, &format!("CRIU: {error}")),
        },
        (started, Some(runc)) => {
            if let Some(started) = started {
                started.abandon();
            }
            restore_with_runc(&request, &spec, &runc, &arguments)
        }
        (_, None) => become_runc(&arguments),
    }
}

/// Starts CRIU with what it needs from its first moment on.
fn start_criu<'a>(
    request: &'a RestoreRequest,
    spec: &Value,
    state: RuncState,
    state_dir: &'a Path,
) -> io::Result<StartedRestore<'a>> {
    let mut draft = criu_restore::prepare(request, spec, state, state_dir)?;
    draft.create_cgroups()?;
    draft.start()
}

/// Gives this process a mount namespace of its own. What is mounted for a restore is gone with its processes, however
/// they end, and containerd can remove the folders at any time. Later mounts and unmounts of the host still arrive.
///
/// # Errors
/// The kernel refuses.
fn leave_mount_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Writes an error to the log, in the format of runc's: the shim returns the last line as the error.
fn fail(request: &RestoreRequest, error: &str) -> ExitCode {
    let line = json!({ "level": "error", "msg": error });
    let _ = fs::File::options()
        .create(true)
        .append(true)
        .open(&request.log)
        .and_then(|mut log| writeln!(log, "{line}"));
    ExitCode::FAILURE
}

/// Restores with runc, and stores the state that runc records for later restores of the checkpoint.
fn restore_with_runc(
    request: &RestoreRequest,
    spec: &Value,
    runc: &Path,
    arguments: &[OsString],
) -> ExitCode {
    let started = huge_pages::allow_to(|| Command::new(runc).args(arguments).spawn());
    let status = match started.and_then(|mut runc| runc.wait()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{}: {error}", runc.display());
            return ExitCode::FAILURE;
        }
    };
    if status.success() {
        // If this fails, runc does the next restore too.
        let _ = RuncState::save(&request.images, runc, spec, &request.state_dir(), &request.id);
        if let Err(error) = limit_restored(request) {
            return fail(request, &format!("limits of the user namespace: {error}"));
        }
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Sets the limits of the user namespace of a container that runc has restored, if it has one.
fn limit_restored(request: &RestoreRequest) -> io::Result<()> {
    if request.first_id.is_none() {
        return Ok(());
    }
    let pid = fs::read_to_string(&request.pid_file)?;
    network_set_up::enter_and_limit(pid.trim().parse().map_err(io::Error::other)?)
}

/// Replaces this process by runc. Returns only if that fails.
fn become_runc(arguments: &[OsString]) -> ExitCode {
    let error = huge_pages::allow_to(|| Command::new(RUNC).args(arguments).exec());
    eprintln!("{RUNC}: {error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_acts_as_runc_only_if_called_by_the_name_of_the_link() {
        let arguments = [OsString::from("/usr/bin/try-it-now"), "restore".into()];
        assert!(run_internal_command(arguments.into_iter()).is_none());
        assert!(run_internal_command(std::iter::empty()).is_none());
    }
}
