//! What the tables of a file of templates are read against, and checks that several of them use.

use std::path::Path;

use super::defaults::Defaults;

/// What the templates of a file depend on besides its text.
pub(super) struct FileContext<'a> {
    /// The file's path, for errors and for paths in templates that are relative to it.
    pub(super) file: &'a Path,
    /// The path of this program, for commands that name it as `try-it-now`.
    pub(super) own_program: &'a str,
    /// The values of keys that a template does not set.
    pub(super) defaults: &'a Defaults,
    /// Whether templates are images (or commands); `None` when `CONTAINER_MODE` is invalid.
    pub(super) has_containers: Option<bool>,
    /// Whether Docker or Podman runs the images.
    pub(super) has_engine: bool,
    /// Whether a MariaDB for instances is configured.
    pub(super) has_database: bool,
    /// Whether instances may be restored from checkpoints.
    pub(super) may_restore: bool,
    /// The `admin_path` of the template `default`.
    pub(super) admin_path: &'a str,
}

/// Returns a request's path (and query) if it is valid.
pub(super) fn request_path(text: &str) -> Option<&str> {
    let has_form = text.starts_with('/') && !text.contains('#');
    (has_form && text.parse::<http::uri::PathAndQuery>().is_ok()).then_some(text)
}

/// Returns a file's path as text. It must be UTF-8, because it is passed to apps and compared across restarts.
pub(super) fn utf8(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| !text.contains('\0'))
}
