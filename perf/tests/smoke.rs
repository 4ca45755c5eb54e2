//! Runs every measurement once, with the process runtime, which every build has. The figures of this test mean nothing.

use std::path::Path;
use std::process::Command;

#[test]
fn every_case_can_be_measured() {
    let perf = Path::new(env!("CARGO_BIN_EXE_perf"));
    // Cargo names only the program of its own package and builds those of other packages beside it.
    let server = perf.with_file_name("try-it-now");
    if !server.exists() {
        assert!(std::env::var_os("TRY_IT_NOW_NO_SKIPS").is_none(), "the server program is not built");
        println!("skipped: {} is missing", server.display());
        return;
    }
    let json = std::env::temp_dir().join(format!("try-it-now-perf-smoke-{}.json", std::process::id()));
    let output =
        Command::new(perf).args(["--quick", "--runtime", "process", "--json"]).arg(&json).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(json).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(
        rows.len(),
        stdout.lines().filter(|line| line.contains(" kept") || line.contains(" MISSED")).count() + 2
    );
    assert!(rows.iter().all(|row| row["measured"].as_f64().unwrap() > 0.0), "{stdout}");
}
