//! What `make release` packs: programs, checksums, and lists of what the programs are made of.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::skip::skip;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The folder of a release, removed when this is dropped.
struct Release(PathBuf);

impl Release {
    /// Returns a folder that does not exist, or prints why no release can be packed here and returns `None`.
    fn new() -> Option<Self> {
        if std::env::consts::ARCH != "x86_64" {
            skip("the program under test is not for x86_64");
            return None;
        }
        let tool = Command::new("cargo").args(["cyclonedx", "--version"]).output();
        if !tool.is_ok_and(|output| output.status.success()) {
            skip("cargo-cyclonedx is missing (run `make package-tools`)");
            return None;
        }
        Some(Self(std::env::temp_dir().join(format!("try-it-now-release-{}", uuid::Uuid::now_v7()))))
    }

    fn pack(&self, program: &str) -> Output {
        let mut pack = Command::new("deployments/release/pack");
        pack.arg(&self.0).arg(format!("{TARGET}={program}")).output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the name and the version of each crate in the lock file.
fn locked() -> BTreeSet<(String, String)> {
    let lock: toml::Table = std::fs::read_to_string("Cargo.lock").unwrap().parse().unwrap();
    let crates = lock["package"].as_array().unwrap().iter();
    let text = |entry: &toml::Value, key: &str| entry[key].as_str().unwrap().to_owned();
    crates.map(|entry| (text(entry, "name"), text(entry, "version"))).collect()
}

#[test]
fn a_release_has_a_program_that_runs_checksums_that_match_and_a_list_of_all_crates() {
    let Some(release) = Release::new() else { return };
    let packed = release.pack(env!("CARGO_BIN_EXE_try-it-now"));
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let name = format!("try-it-now-{}-{TARGET}", env!("CARGO_PKG_VERSION"));
    let sums = release.read("SHA256SUMS");
    let named: BTreeSet<&str> = sums.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!(named, BTreeSet::from(["CHANGELOG.md", &name, &format!("{name}.cdx.json")]));
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(&release.0);
    assert!(check.output().unwrap().status.success(), "{sums}");

    let program = release.0.join(&name);
    let version = Command::new(&program).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"try-it-now "), "{version:?}");
    let sections = std::fs::read(&program).unwrap();
    assert!(!sections.windows(12).any(|bytes| bytes == b".debug_line\0"), "the program has its symbols");

    let bill: Value = serde_json::from_str(&release.read(&format!("{name}.cdx.json"))).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let listed: BTreeSet<_> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (text(entry, "name"), text(entry, "version")))
        .collect();
    assert!(listed.is_subset(&locked()), "{:?}", listed.difference(&locked()).collect::<Vec<_>>());
    let manifest: toml::Table = std::fs::read_to_string("Cargo.toml").unwrap().parse().unwrap();
    for name in manifest["dependencies"].as_table().unwrap().keys() {
        assert!(listed.iter().any(|(listed, _)| listed == name), "{name} is not listed");
    }
    assert!(
        listed.iter().all(|(name, _)| name != "criterion"),
        "what only tests need is no part of the program"
    );
    let own = env!("CARGO_MANIFEST_DIR");
    assert!(!bill.to_string().contains(own), "the list names a folder of this machine");
}

#[test]
fn a_release_is_not_packed_over_another_one_or_without_its_program() {
    let Some(release) = Release::new() else { return };
    let missing = release.pack("target/no-such-program");
    assert!(!missing.status.success());
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("target/no-such-program is missing: make release builds it"), "{said}");
    assert!(!release.0.exists());
    std::fs::create_dir(&release.0).unwrap();
    std::fs::write(release.0.join("older"), "").unwrap();
    let refused = release.pack(env!("CARGO_BIN_EXE_try-it-now"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("is not empty"), "{said}");
    assert_eq!(std::fs::read_dir(&release.0).unwrap().count(), 1);
}
