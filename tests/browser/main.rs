//! Tests in a real browser: the pages, the built-in app, and Node-RED behind the proxy.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

/// The parts of the shared test support that this binary needs.
#[path = "../support"]
mod support {
    #[allow(dead_code, unused_imports, reason = "the tests of the whole server use all of it")]
    pub mod harness;
    pub mod skip;
}

mod appearance;
mod chromium;
mod node_red;
mod pages;

use std::path::{Path, PathBuf};

/// Returns a folder in cargo's target folder, for what outlives a test, such as screenshots and installed apps.
fn target(name: &str) -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.parent().unwrap().join(name)
}

/// Returns whether all programs are installed. If not, prints their names, and panics if no test may be skipped.
fn all_installed(programs: &[&str]) -> bool {
    let folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing: Vec<String> = programs
        .iter()
        .filter(|program| !folders.iter().any(|folder| folder.join(program).is_file()))
        .map(|program| format!("{program} is missing"))
        .collect();
    missing.is_empty() || skipped(&missing.join(", "))
}

/// Prints why a test is skipped and returns `false`. Panics if no test may be skipped.
fn skipped(why: &str) -> bool {
    support::skip::skip(why);
    false
}
