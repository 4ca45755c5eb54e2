//! Whether the instances of tests have user namespaces: as with a server's default, or as the variable says in
//! `USER_NAMESPACES=false cargo nextest run ...`.

use std::env;

use try_it_now::runtime::UserNamespaces;
use try_it_now::runtime::containerd::user_namespaces_refusal;

/// Returns the setting for tests.
pub(crate) fn setting() -> UserNamespaces {
    match env::var("USER_NAMESPACES").as_deref() {
        Ok("true") => UserNamespaces::Required,
        Ok("false") => UserNamespaces::Off,
        _ => UserNamespaces::Auto,
    }
}

/// Returns whether instances get user namespaces on this host.
pub(crate) fn are_in_use() -> bool {
    match setting() {
        UserNamespaces::Auto => user_namespaces_refusal().is_none(),
        UserNamespaces::Required => true,
        UserNamespaces::Off => false,
    }
}
