//! The files that tell an instance which one it is.

use std::io;

use super::{InstanceFile, StartRequest};
use crate::template::random_hex;

/// Returns the files below `/etc/try-it-now` that tell an instance which one it is: `id`, `url`, `host`, and `seed`,
/// random text of its own from which an app can derive salts and keys. A restored process has the environment of the
/// process that was frozen, so it learns this only from files.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn identity_files(request: &StartRequest) -> io::Result<[InstanceFile; 4]> {
    let seed = random_hex::<32>()?;
    let files =
        [("id", request.id.as_str()), ("url", &request.url), ("host", &request.host), ("seed", &seed)];
    Ok(files.map(|(name, text)| InstanceFile::new(format!("/etc/try-it-now/{name}"), text)))
}
