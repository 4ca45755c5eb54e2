//! The texts of errors that Valkey answers: what is wrong, and what the operator can do.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::StoreError;

/// The error of a call that failed.
pub(super) fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable(text(&error))
}

fn text(error: &RedisError) -> String {
    let advice = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "Valkey refuses the login: set VALKEY_USERNAME and VALKEY_PASSWORD to those of the server"
        }
        (_, Some("OOM")) => {
            "Valkey is full: raise its maxmemory, or remove keys that other programs keep in it; it takes no new \
             instances until then"
        }
        (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => {
            "Valkey loads its data after a start; calls are answered when it has done so"
        }
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => {
            "Valkey is a read-only replica: set VALKEY_ADDR to the primary, or name Sentinels that know it"
        }
        (_, Some("MISCONF")) => {
            "Valkey refuses writes because it cannot save its data: make room on its disk, or see its log"
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => {
            "the user of Valkey may not run a command that this program needs: allow it in the ACL"
        }
        (_, Some("NOREPLICAS")) => {
            "Valkey refuses writes while too few replicas are connected (min-replicas-to-write)"
        }
        _ => return error.to_string(),
    };
    format!("{advice} ({error})")
}
