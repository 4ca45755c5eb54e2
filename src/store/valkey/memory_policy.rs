//! Whether Valkey may evict keys: only with the policy `noeviction` it keeps what it was given.

use redis::{RedisResult, cmd};

use super::settings::Settings;
use super::transport::Transport;

/// What the operator can do against evictions.
pub(super) const REMEDY: &str = "set `maxmemory-policy noeviction` in Valkey (`CONFIG SET maxmemory-policy noeviction`, or the \
                      parameter group of a managed one), or give this program a Valkey of its own";

/// Whether Valkey may remove keys that it was given to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvictionRisk {
    /// The policy is `noeviction`.
    None,
    /// The policy is that one, and there is a limit of memory or may be one later.
    Policy(String),
    /// The server does not report its policy.
    Unknown,
}

/// Returns whether the server that has the keys may evict them.
///
/// # Errors
/// Valkey cannot be reached, or refuses to report.
pub async fn eviction_risk(settings: &Settings) -> RedisResult<EvictionRisk> {
    read(&mut Transport::connect_to_key_owner(settings).await?).await
}

/// Asks the server at the other end. `INFO` is allowed where `CONFIG GET` is not, as in most managed services.
pub(super) async fn read(transport: &mut Transport) -> RedisResult<EvictionRisk> {
    let info: String = cmd("INFO").arg("memory").query_async(transport).await?;
    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
    Ok(match policy {
        None | Some("") => EvictionRisk::Unknown,
        Some("noeviction") => EvictionRisk::None,
        Some(policy) => EvictionRisk::Policy(policy.to_owned()),
    })
}

/// Logs what changed since the risk was read last; `None` before the first time.
pub(super) fn log_change(before: Option<&EvictionRisk>, now: &EvictionRisk) {
    match now {
        _ if before == Some(now) => {}
        EvictionRisk::None if before.is_some() => tracing::info!("Valkey evicts no keys any more"),
        EvictionRisk::None => {}
        EvictionRisk::Policy(policy) => {
            tracing::warn!(policy, remedy = REMEDY, "Valkey may evict keys of this program");
        }
        EvictionRisk::Unknown => {
            tracing::warn!(remedy = REMEDY, "Valkey does not report its maxmemory-policy");
        }
    }
}
