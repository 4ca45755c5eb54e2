//! A server that cannot start reports all reasons and changes nothing.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder of one test, removed when this is dropped.
struct StateFolder(PathBuf);

impl StateFolder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program and waits for its end.
fn output(folder: &StateFolder, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_try-it-now"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STATE_DIR", folder.path("state"))
        .env("SERVER_HOST", "127.0.0.1")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Runs a server that cannot start and waits for its end.
fn run(folder: &StateFolder, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = output(folder, arguments, variables);
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn all_configuration_errors_are_reported_together_before_a_port_is_bound() {
    let folder = StateFolder::new();
    let file = folder.path("templates.toml");
    std::fs::write(
        &file,
        "[templates.Shop]\ncommand = []\nttl = \"soon\"\n[templates.ok]\ncommand = [\"x\"]\nx = 1\n",
    )
    .unwrap();
    // A port in use would be an error of its own, which is reported after these.
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = in_use.local_addr().unwrap().port().to_string();
    let variables = [
        ("SERVER_PORT", port.as_str()),
        ("POOL_TARGET_SIZE", "many"),
        ("RATE_LIMIT_HOURLY", "-1"),
        ("POOL_DEFAULT_TTL", "30"),
        ("CONTAINER_MODE", "vm"),
        ("LOG_LEVEL", "loud"),
        ("TRUSTED_PROXIES", "127.0.0.1,everywhere"),
        ("ACQUIRE_TIMEOUT", "soon"),
    ];
    let (code, output) = run(&folder, &["serve", "--config", &file], &variables);
    assert_eq!(code, Some(64), "{output}");
    let errors = [
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
    for error in errors {
        assert_eq!(output.lines().filter(|line| line.contains(error)).count(), 1, "{error} in\n{output}");
    }
    assert_eq!(output.lines().count(), errors.len(), "{output}");
    assert!(!folder.0.join("state").exists());
}

#[test]
fn an_invalid_secret_is_not_printed() {
    let folder = StateFolder::new();
    let (code, output) = run(&folder, &[], &[("API_KEY", "s3cr\u{e9}t")]);
    assert_eq!(code, Some(64), "{output}");
    assert!(output.contains("API_KEY") && !output.contains("s3cr"), "{output}");
}

#[test]
fn the_configuration_in_effect_is_printed_without_secrets_and_changes_nothing() {
    let folder = StateFolder::new();
    let file = folder.path("templates.toml");
    std::fs::write(&file, "[templates.shop]\ncommand = [\"x\"]\nttl = \"10m\"\n").unwrap();
    let variables =
        [("SERVER_PORT", "8099"), ("API_KEY", "hush"), ("POOL_TARGET_SIZE", "4"), ("POOL_MIM_SIZE", "1")];
    let shown = output(&folder, &["config", "--config", &file], &variables);
    assert!(shown.status.success());
    let text = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        ["SERVER_PORT", "8099", "environment"],
        ["API_KEY", "(secret)", "environment"],
        ["LOG_LEVEL", "info", "default"],
        ["templates.shop.ttl", "10m", "file"],
        ["templates.shop.pool.target", "4", "POOL_TARGET_SIZE"],
    ] {
        assert!(lines.contains(&expected.to_vec()), "{expected:?} in\n{text}");
    }
    assert!(!text.contains("hush"), "{text}");
    let warnings = String::from_utf8(shown.stderr).unwrap();
    assert!(warnings.contains("POOL_MIM_SIZE is ignored: did you mean POOL_MIN_SIZE?"), "{warnings}");
    let shown = output(&folder, &["config", "--json"], &variables);
    let values: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let port = values.as_array().unwrap().iter().find(|value| value["name"] == "SERVER_PORT").unwrap();
    assert_eq!(*port, serde_json::json!({ "name": "SERVER_PORT", "value": "8099", "source": "environment" }));
    assert!(!folder.0.join("state").exists());
    let (code, errors) = run(&folder, &["config"], &[("SERVER_PORT", "many")]);
    assert_eq!(code, Some(64));
    assert!(errors.contains("SERVER_PORT"), "{errors}");
}

#[test]
fn a_missing_template_file_is_a_configuration_error() {
    let folder = StateFolder::new();
    let (code, output) = run(&folder, &["serve", "--config", &folder.path("none.toml")], &[]);
    assert_eq!(code, Some(64), "{output}");
    assert!(output.contains("none.toml"), "{output}");
}

#[test]
fn an_address_in_use_is_named_and_nothing_is_left() {
    let folder = StateFolder::new();
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = in_use.local_addr().unwrap().port().to_string();
    let (code, output) = run(&folder, &[], &[("SERVER_PORT", &port)]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{output}");
    assert!(!folder.0.join("state").exists());
}

#[test]
fn a_state_folder_that_cannot_be_used_is_named() {
    let folder = StateFolder::new();
    std::fs::write(folder.path("state"), "a file").unwrap();
    let (code, output) = run(&folder, &[], &[("SERVER_PORT", "0")]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&folder.path("state")), "{output}");
}
