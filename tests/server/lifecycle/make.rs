//! The targets of the Makefile that run a server and stop it.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::harness::{eventually, processes_of};

/// The folder of `make run`, removed when this is dropped.
struct RunFolder(PathBuf);

impl RunFolder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("try-it-now-make-{}", uuid::Uuid::now_v7().simple())))
    }

    /// Makes a target with the program under test, and builds nothing.
    fn make(&self, target: &str) -> Command {
        let mut make = Command::new("make");
        make.args(["--silent", "--old-file=build", target]);
        make.arg(format!("RUN={}", self.0.display()));
        make.arg(concat!("SERVER=", env!("CARGO_BIN_EXE_try-it-now")));
        make.env("SERVER_HOST", "127.0.0.1").env("SERVER_PORT", "0").env("POOL_TARGET_SIZE", "1");
        make.env_remove("MAKEFLAGS").env_remove("STATE_DIR");
        make
    }

    fn run(&self, target: &str) -> String {
        let Output { status, stdout, stderr } = self.make(target).output().unwrap();
        assert!(status.success(), "make {target}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = self.make("stop").output();
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_server_that_make_has_started_is_stopped_by_its_process_id_and_its_data_is_removed() {
    let folder = RunFolder::new();
    let mut server = folder.make("run").stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually("an instance runs", async || (!processes_of(&folder.state()).is_empty()).then_some(())).await;
    folder.run("stop");
    assert!(server.wait().unwrap().success(), "the server shut down");
    assert_eq!(processes_of(&folder.state()), []);
    assert_eq!(folder.run("stop"), "no server of make run is running\n");
    assert!(folder.state().is_dir());
    folder.run("clean-all");
    assert!(!folder.0.exists());
}

#[test]
fn stop_ends_no_other_process_that_has_the_number_by_now() {
    let folder = RunFolder::new();
    std::fs::create_dir(&folder.0).unwrap();
    std::fs::write(folder.0.join("pid"), std::process::id().to_string()).unwrap();
    assert_eq!(folder.run("stop"), "no server of make run is running\n");
}

#[test]
fn the_help_names_every_target_that_a_user_needs() {
    let help = RunFolder::new().run("help");
    let targets = ["init", "build", "run", "stop", "clean-demos", "clean-data", "clean-all", "deb"];
    let infra = ["infra-up", "infra-down", "infra-logs"];
    for target in targets.into_iter().chain(infra) {
        assert!(help.contains(&format!("  make {target} ")), "{target} in\n{help}");
    }
}
