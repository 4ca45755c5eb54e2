//! The path of a Unix socket.

use std::path::PathBuf;

/// The most bytes of the path of a Unix socket, which the kernel limits.
const MAX_SOCKET_PATH: usize = 107;

/// Reads an absolute path, with or without `unix://` before it.
///
/// # Errors
/// What to write instead.
pub(super) fn socket(text: &str) -> Result<PathBuf, &'static str> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    let is_valid = path.starts_with('/') && path.len() <= MAX_SOCKET_PATH && !path.contains('\0');
    is_valid.then(|| PathBuf::from(path)).ok_or(
        "write the absolute path of its socket, of at most 107 bytes, with or without unix:// before it",
    )
}
