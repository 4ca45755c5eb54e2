//! The command `doctor` of the real program.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn run_doctor(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
        .arg("doctor")
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STATE_DIR", std::env::temp_dir())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn missing_socket() -> PathBuf {
    std::env::temp_dir().join(format!("try-it-now-doctor-{}.sock", uuid::Uuid::now_v7()))
}

#[test]
fn the_process_mode_works_on_a_host_without_containers() {
    let socket = missing_socket();
    let (code, output, errors) = run_doctor(&[("CONTAINERD_ADDRESS", socket.to_str().unwrap())], &[]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{output}");
    assert!(output.lines().any(|line| line.starts_with("warning  containerd ")), "{output}");
    assert!(output.lines().any(|line| line.starts_with("ok       wildcard DNS")), "{output}");
    assert!(!output.contains("failed "), "{output}");
}

#[test]
fn containers_without_containerd_fail_and_the_socket_is_named_with_a_remedy() {
    let socket = missing_socket();
    let socket = socket.to_str().unwrap();
    let variables =
        [("CONTAINER_MODE", "containerd"), ("CONTAINER_IMAGE", "shop"), ("CONTAINERD_ADDRESS", socket)];
    let (code, output, errors) = run_doctor(&variables, &["--json"]);
    assert_eq!((code, errors.as_str()), (Some(1), ""), "{output}");
    let findings: Vec<Value> = serde_json::from_str(&output).unwrap();
    let containerd = findings.iter().find(|finding| finding["check"] == "containerd").unwrap();
    assert_eq!(containerd["verdict"], "failed");
    assert!(containerd["found"].as_str().unwrap().contains(socket), "{containerd}");
    for finding in &findings {
        assert_eq!(finding["verdict"] == "ok", finding["remedy"].is_null(), "{finding}");
    }
}

#[test]
fn a_configuration_error_is_reported_as_the_server_reports_it() {
    let (code, output, errors) = run_doctor(&[("SERVER_PORT", "x")], &[]);
    assert_eq!((code, output.as_str()), (Some(64), ""));
    assert!(errors.starts_with("SERVER_PORT: "), "{errors}");
}
