//! What a server does that cannot start: it says why, all of it, and changes nothing.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a server that cannot start, to its end.
fn run(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STATE_DIR", folder.path("state"))
        .env("SERVER_HOST", "127.0.0.1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn all_mistakes_are_told_at_once_before_a_port_is_bound() {
    let folder = Folder::new();
    let file = folder.path("templates.toml");
    std::fs::write(
        &file,
        "[templates.Shop]\ncommand = []\nttl = \"soon\"\n[templates.ok]\ncommand = [\"x\"]\nx = 1\n",
    )
    .unwrap();
    // A port that is taken would be an error of its own, after these.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let variables = [
        ("SERVER_PORT", port.as_str()),
        ("POOL_TARGET_SIZE", "many"),
        ("RATE_LIMIT_HOURLY", "-1"),
        ("POOL_DEFAULT_TTL", "30"),
        ("CONTAINER_MODE", "docker"),
        ("LOG_LEVEL", "loud"),
        ("TRUSTED_PROXIES", "127.0.0.1,everybody"),
        ("ACQUIRE_TIMEOUT", "soon"),
    ];
    let (code, told) = run(&folder, &["serve", "--config", &file], &variables);
    assert_eq!(code, Some(64), "{told}");
    let mistakes = [
        "POOL_TARGET_SIZE",
        "RATE_LIMIT_HOURLY",
        "POOL_DEFAULT_TTL",
        "CONTAINER_MODE",
        "LOG_LEVEL",
        "TRUSTED_PROXIES",
        "ACQUIRE_TIMEOUT",
        "templates.toml:1",
        "templates.toml:2",
        "templates.toml:3",
        "templates.toml:6",
    ];
    for mistake in mistakes {
        assert_eq!(told.lines().filter(|line| line.contains(mistake)).count(), 1, "{mistake} in\n{told}");
    }
    assert_eq!(told.lines().count(), mistakes.len(), "{told}");
    assert!(!folder.0.join("state").exists());
}

#[test]
fn a_secret_is_not_told_when_it_is_wrong() {
    let folder = Folder::new();
    let (code, told) = run(&folder, &[], &[("API_KEY", "s3cr\u{e9}t")]);
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("API_KEY") && !told.contains("s3cr"), "{told}");
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let folder = Folder::new();
    let (code, told) = run(&folder, &["serve", "--config", &folder.path("none.toml")], &[]);
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("none.toml"), "{told}");
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_is_left() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, told) = run(&folder, &[], &[("SERVER_PORT", &port)]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{told}");
    assert!(!folder.0.join("state").exists());
}

#[test]
fn a_state_folder_that_cannot_be_used_is_named() {
    let folder = Folder::new();
    std::fs::write(folder.path("state"), "a file").unwrap();
    let (code, told) = run(&folder, &[], &[("SERVER_PORT", "0")]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&folder.path("state")), "{told}");
}
