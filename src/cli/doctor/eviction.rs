//! Checks whether the Valkey that nodes share may evict keys.

use std::time::Duration;

use tokio::time::timeout;

use super::check_result::CheckResult;
use crate::config::Config;
use crate::server::backends::{EvictionRisk, eviction_risk};

/// Longest time to ask.
const DEADLINE: Duration = Duration::from_secs(3);

const REMEDY: &str = "set `maxmemory-policy noeviction` in Valkey, or give this program a Valkey of its own";

/// Returns nothing if the store is embedded or Valkey does not answer, which another check reports.
pub(super) async fn check(config: &Config) -> Option<CheckResult> {
    let asking = eviction_risk(config.store.clone()?);
    timeout(DEADLINE, asking).await.ok().flatten().map(|risk| judge(&risk))
}

fn judge(risk: &EvictionRisk) -> CheckResult {
    const CHECK: &str = "eviction";
    match risk {
        EvictionRisk::None => CheckResult::ok(CHECK, "Valkey keeps all keys (noeviction)"),
        EvictionRisk::Policy(policy) => CheckResult::warning(
            CHECK,
            format!(
                "Valkey may evict keys when its memory is full (maxmemory-policy {policy}); acquires fail until \
                 the nodes have restored what is lost"
            ),
            REMEDY,
        ),
        EvictionRisk::Unknown => CheckResult::warning(
            CHECK,
            "Valkey does not report its maxmemory-policy",
            format!("ask its operator; if it evicts, {REMEDY}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn any_policy_that_evicts_is_a_warning_that_names_it() {
        assert_eq!(judge(&EvictionRisk::None).verdict, Verdict::Ok);
        let judged = judge(&EvictionRisk::Policy("volatile-ttl".to_owned()));
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.found.contains("volatile-ttl") && judged.remedy.unwrap().contains("noeviction"));
        assert_eq!(judge(&EvictionRisk::Unknown).verdict, Verdict::Warning);
    }
}
