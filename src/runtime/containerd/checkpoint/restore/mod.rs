//! What the shim runs in place of runc for instances that are restored: this program in another role.
//!
//! `restore` asks CRIU itself, which saves the start of runc and one of the two of CRIU; everything else becomes runc, in
//! this very process. So that runc knows what we have restored, the first restore of a checkpoint is runc's: what it notes
//! of that instance is the model for what we note of the next ones (`model`). Wherever anything is not as expected before
//! CRIU is asked, runc does the restore: with cgroups of version 2, for example, where only it sets up the rules for
//! devices.
//!
//! | a file | what it knows |
//! |---|---|
//! | `model` | what runc notes, and of which runc that is |
//! | `restore` | the steps of a restore, and their undoing |
//! | `groups` | control groups of version 1 |
//! | `link` | what is called when we are gone |
//! | `rpc` | CRIU's messages |

mod cgroup_v1;
mod criu_restore;
mod criu_rpc;
mod runc_fallback;
mod runc_state;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::json;

use crate::runtime::containerd_process::{find, own_path};
pub(crate) use runc_fallback::RestoredLink;
use runc_state::RuncState;

/// The name of a link to this program by which it takes this role.
pub(crate) const NAME: &str = "try-it-now-runc";

/// What it becomes for everything else, looked for in `PATH`.
const RUNC: &str = "runc";

/// Runs the role if the program was called by its name.
pub(crate) fn command(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let called = arguments.next()?;
    if Path::new(&called).file_name() != Some(OsStr::new(NAME)) {
        return None;
    }
    let arguments: Vec<OsString> = arguments.collect();
    Some(match Request::read(&arguments) {
        Some(request) => serve(&request, &arguments),
        None => become_runc(&arguments),
    })
}

/// What `restore` is called with. All that the shim says, and nothing else: whoever says more gets runc.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// Where runc keeps its notes, a folder for each container.
    root: PathBuf,
    log: PathBuf,
    images: PathBuf,
    work: PathBuf,
    pid_file: PathBuf,
    bundle: PathBuf,
    id: String,
}

impl Request {
    fn read(arguments: &[OsString]) -> Option<Self> {
        let mut words = arguments.iter().map(|word| word.to_str());
        let (mut root, mut log, mut images, mut work) = (None, None, None, None);
        let (mut pid_file, mut bundle, mut id, mut restores) = (None, None, None, false);
        while let Some(word) = words.next() {
            match word? {
                "--root" => root = Some(words.next()??.into()),
                "--log" => log = Some(words.next()??.into()),
                "--log-format" => (words.next()?? == "json").then_some(())?,
                "restore" if !restores => restores = true,
                "--image-path" => images = Some(words.next()??.into()),
                "--work-path" => work = Some(words.next()??.into()),
                "--pid-file" => pid_file = Some(words.next()??.into()),
                "--bundle" => bundle = Some(words.next()??.into()),
                "--detach" | "-no-subreaper" | "--no-subreaper" => {}
                other if restores && !other.starts_with('-') && id.is_none() => id = Some(other.to_owned()),
                _ => return None,
            }
        }
        let id = id.filter(|id| restores && !id.contains('/') && !id.starts_with('.'))?;
        Some(Self {
            root: root?,
            log: log?,
            images: images?,
            work: work?,
            pid_file: pid_file?,
            bundle: bundle?,
            id,
        })
    }

    /// Runc's notes of this container.
    fn notes(&self) -> PathBuf {
        self.root.join(&self.id)
    }
}

fn serve(request: &Request, arguments: &[OsString]) -> ExitCode {
    let Some(runc) = find(RUNC, &own_path()) else { return become_runc(arguments) };
    let model = RuncState::find(&request.images, &runc, &request.bundle, &request.id);
    let Some(model) = model else { return learn(request, &runc, arguments) };
    let notes = request.notes();
    let prepared = criu_restore::prepare(request, model, &notes).and_then(|mut draft| {
        draft.limit()?;
        Ok(draft)
    });
    let Ok(draft) = prepared else { return become_runc(arguments) };
    match draft.restore() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = json!({ "level": "error", "msg": format!("CRIU: {error}") });
            // As runc says it: the last line of its log is what the shim passes on.
            let _ = fs::File::options()
                .create(true)
                .append(true)
                .open(&request.log)
                .and_then(|mut log| writeln!(log, "{line}"));
            ExitCode::FAILURE
        }
    }
}

/// Has runc restore it, and keeps what it notes for the next ones.
fn learn(request: &Request, runc: &Path, arguments: &[OsString]) -> ExitCode {
    let status = match Command::new(runc).args(arguments).status() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{}: {error}", runc.display());
            return ExitCode::FAILURE;
        }
    };
    if status.success() {
        // Without it, the next one is runc's again.
        let _ = RuncState::keep(&request.images, runc, &request.bundle, &request.notes(), &request.id);
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn become_runc(arguments: &[OsString]) -> ExitCode {
    let error = Command::new(RUNC).args(arguments).exec();
    eprintln!("{RUNC}: {error}");
    ExitCode::FAILURE
}

/// A program in `PATH`.
fn other(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Request> {
        Request::read(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    const LINE: &str = "--root /r --log /l --log-format json restore --image-path /i --work-path /w --detach --pid-file /p \
                        -no-subreaper --bundle /b shop-1";

    #[test]
    fn what_the_shim_asks_for_is_understood_whole() {
        let request = read(LINE).unwrap();
        assert_eq!(request.id, "shop-1");
        assert_eq!(request.notes(), Path::new("/r/shop-1"));
        assert_eq!((request.images, request.work), ("/i".into(), "/w".into()));
    }

    #[test]
    fn anything_else_is_for_runc() {
        for line in [
            "--root /r --log /l --log-format json kill --all shop-1 9",
            "--version",
            "",
            &LINE.replace("--detach", "--detach --lazy-pages"),
            &LINE.replace("json", "text"),
            &LINE.replace("--image-path /i ", ""),
            &LINE.replace(" shop-1", ""),
            &LINE.replace("shop-1", "../shop-1"),
            &format!("{LINE} another"),
            &format!("{LINE} --bundle"),
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn the_role_goes_by_the_name() {
        assert!(command([OsString::from("/usr/bin/try-it-now"), "restore".into()].into_iter()).is_none());
        assert!(command(std::iter::empty()).is_none());
    }
}
