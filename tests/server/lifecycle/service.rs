//! The server as a service of systemd, and what a package of it contains.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::support::harness::{Server, eventually, processes_of};

/// A service manager's socket.
pub(crate) struct Manager {
    socket: UnixDatagram,
    pub(crate) path: std::path::PathBuf,
    received: Vec<String>,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("try-it-now-notify-{}", uuid::Uuid::now_v7()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, received: Vec::new() }
    }

    fn receive(&mut self) {
        let mut message = [0; 512];
        while let Ok(length) = self.socket.recv(&mut message) {
            self.received.push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
    }

    /// Waits for a message that begins like this, and forgets those before it.
    pub(crate) async fn wait_for(&mut self, begin: &str) -> String {
        eventually(&format!("a message {begin}"), async || {
            self.receive();
            let at = self.received.iter().position(|message| message.starts_with(begin))?;
            self.received.drain(..=at).next_back()
        })
        .await
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[tokio::test]
async fn a_service_manager_learns_of_each_step_of_the_server() {
    let mut manager = Manager::new();
    let path = manager.path.to_str().unwrap().to_owned();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "200000")];
    let mut server = Server::start(&variables).await.full().await;
    manager.wait_for("READY=1").await;
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1").await;
    }
    // No app can send in the name of the server.
    let instance = server.acquire().await;
    assert_eq!(server.call("GET", "/health", "").await.status, 200);
    let processes = processes_of(&server.folder);
    assert!(processes.iter().any(|process| process.instance == instance.id && process.is_app));
    for process in processes.into_iter().filter(|process| process.is_app) {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains(&path), "an app has the socket");
    }
    server.signal("HUP");
    let reloading = manager.wait_for("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1").await;
    server.signal("TERM");
    manager.wait_for("STOPPING=1").await;
    assert_eq!(server.wait_for_exit().await, Some(0));
}

#[tokio::test]
async fn a_server_that_hangs_sends_no_sign_of_life() {
    let mut manager = Manager::new();
    let path = manager.path.to_str().unwrap().to_owned();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "100000")];
    let server = Server::start(&variables).await;
    manager.wait_for("WATCHDOG=1").await;
    server.signal("STOP");
    eventually("what was sent before is read", async || {
        manager.received.clear();
        tokio::time::sleep(Duration::from_millis(200)).await;
        manager.receive();
        manager.received.is_empty().then_some(())
    })
    .await;
    server.signal("CONT");
    manager.wait_for("WATCHDOG=1").await;
}

fn program(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_try-it-now")).args(arguments).env_clear().output().unwrap()
}

#[test]
fn the_version_names_the_commit_or_says_that_it_is_unknown() {
    let commit = option_env!("TRY_IT_NOW_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let wanted = format!("try-it-now {} (commit {commit})\n", env!("CARGO_PKG_VERSION"));
    let printed = program(&["--version"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), wanted);
    assert!(printed.status.success());
}

#[test]
fn there_is_a_manual_page_for_each_command_and_a_script_for_each_shell() {
    let folder = std::env::temp_dir().join(format!("try-it-now-man-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    assert!(program(&["man", folder.to_str().unwrap()]).status.success());
    let help = String::from_utf8(program(&["--help"]).stdout).unwrap();
    let commands = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    for command in commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        if !["", "help"].contains(&command) {
            let page = std::fs::read_to_string(folder.join(format!("try-it-now-{command}.1"))).unwrap();
            assert!(page.contains(".SH NAME"), "{command}");
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let missing = program(&["man", folder.to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains(folder.to_str().unwrap()));
    for shell in ["bash", "fish", "zsh"] {
        let script = String::from_utf8(program(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("try-image"), "{shell}");
    }
    assert_eq!(program(&["completions", "csh"]).status.code(), Some(2));
}

#[test]
fn the_unit_starts_this_program_with_arguments_that_it_has() {
    let unit = std::fs::read_to_string("deployments/systemd/try-it-now.service").unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/try-it-now ")).unwrap();
    let mut arguments: Vec<&str> = start.split(' ').collect();
    arguments.push("--help");
    assert!(program(&arguments).status.success(), "{start}");
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nWatchdogSec="));
}

#[test]
fn the_templates_of_the_compose_file_are_valid_and_its_servers_read_them() {
    let compose = std::fs::read_to_string("deployments/compose.yaml").unwrap();
    assert_eq!(compose.matches("./compose-templates.toml:/etc/try-it-now/templates.toml:ro").count(), 2);
    let printed = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
        .args(["config", "--config", "deployments/compose-templates.toml"])
        .env_clear()
        .envs([("CONTAINER_MODE", "docker"), ("HOME", "/")])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&printed.stderr);
    assert!(printed.status.success(), "{errors}");
}
