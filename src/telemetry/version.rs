//! The version of this program and the commit that it was built from.

use std::sync::LazyLock;

/// The commit that the program was built from, as `TRY_IT_NOW_COMMIT` named it to the compiler, or `unknown`.
///
/// `make deb`, `make image` and `make release` set the variable. Builds of a developer do not, since each commit would
/// build the whole crate again.
pub const COMMIT: &str = match option_env!("TRY_IT_NOW_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// Returns the version and the commit, as `try-it-now --version` prints them after the name.
pub fn version_with_commit() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{} (commit {COMMIT})", env!("CARGO_PKG_VERSION")));
    &TEXT
}
