//! The entry point: decides whether CRIU or runc does what the shim asks for.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use super::criu_restore;
use super::request::RestoreRequest;
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
        network_set_up::ask(folder, pid)?;
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
    if let Err(error) = request.map_images(&mut arguments) {
        request.unmount_devices();
        return fail(&request, &format!("images for the user namespace: {error}"));
    }
    let code = restore_mapped(&request, &arguments);
    // What was not unmounted because the restore failed.
    request.unmount_devices();
    code
}

fn restore_mapped(request: &RestoreRequest, arguments: &[OsString]) -> ExitCode {
    let Some(runc) = find_program(RUNC, &own_search_path()) else { return become_runc(arguments) };
    let with_runc = || match request.first_id {
        Some(_) => restore_with_runc(request, &runc, arguments),
        None => become_runc(arguments),
    };
    let state = RuncState::find(&request.images, &runc, &request.bundle, &request.id);
    let Some(state) = state else { return restore_with_runc(request, &runc, arguments) };
    let state_dir = request.state_dir();
    let prepared = criu_restore::prepare(request, state, &state_dir).and_then(|mut draft| {
        draft.create_cgroups()?;
        Ok(draft)
    });
    let Ok(draft) = prepared else { return with_runc() };
    match draft.restore() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(request, &format!("CRIU: {error}")),
    }
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
fn restore_with_runc(request: &RestoreRequest, runc: &Path, arguments: &[OsString]) -> ExitCode {
    let status = match Command::new(runc).args(arguments).status() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{}: {error}", runc.display());
            return ExitCode::FAILURE;
        }
    };
    if status.success() {
        // If this fails, runc does the next restore too.
        request.unmount_devices();
        let _ = RuncState::save(&request.images, runc, &request.bundle, &request.state_dir(), &request.id);
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
    let error = Command::new(RUNC).args(arguments).exec();
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
