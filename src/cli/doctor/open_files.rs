//! Checks whether the maximum of connections fits into the limit of open files.

use super::check_result::CheckResult;
use crate::config::Config;
use crate::server::descriptors::{connections_within, hard_limit, limit_for};

/// Checks the hard limit of this process, which is that of a server that is started the same way.
pub(super) fn check(config: &Config) -> CheckResult {
    let instances = config.templates.iter().map(|template| template.pool.max);
    judge(hard_limit(), config.server.max_connections, instances.fold(0, usize::saturating_add))
}

fn judge(limit: Option<u64>, wanted: usize, instances: usize) -> CheckResult {
    const CHECK: &str = "open files";
    let fitting = connections_within(limit, wanted, instances);
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("at most {limit}"));
    if fitting == wanted {
        return CheckResult::ok(CHECK, format!("{limit}, enough for {wanted} connections"));
    }
    let needed = limit_for(wanted, instances);
    CheckResult::warning(
        CHECK,
        format!("{limit}: the server takes {fitting} connections, not the {wanted} of MAX_CONNECTIONS"),
        format!(
            "raise the hard limit to {needed} (`ulimit -Hn`, LimitNOFILE= of a systemd unit), or lower MAX_CONNECTIONS"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_maximum_of_connections_that_does_not_fit_is_a_warning_with_both_numbers() {
        assert_eq!(judge(Some(524_288), 10_000, 20).verdict, Verdict::Ok);
        assert_eq!(judge(None, 10_000, 20).verdict, Verdict::Ok);
        let judged = judge(Some(1024), 10_000, 20);
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.found.contains("1024") && judged.found.contains("10000"), "{}", judged.found);
        let remedy = judged.remedy.unwrap();
        assert!(remedy.contains(&limit_for(10_000, 20).to_string()), "{remedy}");
    }
}
