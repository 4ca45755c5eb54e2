//! Runs every measurement once, with the process runtime, which every build has. The figures of this test mean nothing.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the program of the server; `None` if it is not built.
fn server() -> Option<PathBuf> {
    // Cargo names only the program of its own package and builds those of other packages beside it.
    let server = Path::new(env!("CARGO_BIN_EXE_perf")).with_file_name("try-it-now");
    if !server.exists() {
        assert!(std::env::var_os("TRY_IT_NOW_NO_SKIPS").is_none(), "the server program is not built");
        println!("skipped: {} is missing", server.display());
        return None;
    }
    Some(server)
}

/// Measures with these arguments for a short time. Returns what was printed, and the figures.
fn measure(name: &str, arguments: &[&str]) -> (String, Vec<serde_json::Value>) {
    let json = std::env::temp_dir().join(format!("try-it-now-perf-{name}-{}.json", std::process::id()));
    let mut perf = Command::new(env!("CARGO_BIN_EXE_perf"));
    perf.args(["--quick", "--runtime", "process", "--json"]).arg(&json).args(arguments);
    let output = perf.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(json).unwrap();
    assert!(document["environment"]["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
    let rows = document["rows"].as_array().unwrap().clone();
    assert!(rows.iter().all(|row| row["measured"].as_f64().unwrap() > 0.0), "{stdout}");
    (stdout, rows)
}

#[test]
fn every_case_without_containers_can_be_measured() {
    let Some(_) = server() else { return };
    let folder = std::env::temp_dir().join(format!("try-it-now-perf-report-{}", std::process::id()));
    let (stdout, rows) = measure("cases", &["--out", folder.to_str().unwrap()]);
    let verdicts = stdout.lines().filter(|line| line.contains(" kept") || line.contains(" MISSED"));
    let bounded = rows.iter().filter(|row| row["bound"] != "none");
    assert_eq!(bounded.count(), verdicts.count(), "{stdout}");
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(rows.iter().all(|row| page.contains(row["what"].as_str().unwrap())), "{page}");
    let charts = std::fs::read_dir(folder.join("charts")).unwrap().count();
    assert_eq!(page.matches("<svg ").count(), charts);
    assert!(folder.join("report.json").exists() && charts > 0);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn two_builds_can_be_compared() {
    let Some(server) = server() else { return };
    let (_, rows) = measure("builds", &["--earlier", server.to_str().unwrap()]);
    let names: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["acquire, release, new instance", "proxied requests"]);
    assert!(rows.iter().all(|row| row["to"] == "earlier build"));
}

/// These share containerd with the tests of other binaries.
mod containers {
    #[test]
    fn refills_can_be_measured() {
        let Some(_) = super::server() else { return };
        let (stdout, rows) = super::measure("refill", &["--case", "refill"]);
        assert!(!rows.is_empty() || stdout.contains("skipped: refill"), "{stdout}");
    }
}
