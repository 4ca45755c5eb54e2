//! Checks the NATS that nodes share.

use std::time::Duration;

use tokio::time::timeout;

use super::check_result::CheckResult;
use crate::cluster::queue::QueueError;
use crate::config::Config;
use crate::server::backends::{ServerReport, survey_nats};

const CHECK: &str = "queue";

/// Longest time to ask.
const DEADLINE: Duration = Duration::from_secs(6);

/// Returns whether NATS can be used, if it is configured.
pub(super) async fn check(config: &Config) -> CheckResult {
    if config.queue.nats.is_none() {
        return CheckResult::ok(CHECK, "embedded in the server");
    }
    match timeout(DEADLINE, survey_nats(config)).await {
        Ok(Some(report)) => judge(report),
        Ok(None) => CheckResult::ok(CHECK, "embedded in the server"),
        Err(_) => judge(Err(QueueError(format!("NATS did not answer within {DEADLINE:?}")))),
    }
}

fn judge(report: Result<ServerReport, QueueError>) -> CheckResult {
    match report {
        Ok(ServerReport { version, problem: None }) => CheckResult::ok(
            CHECK,
            format!(
                "NATS {version} answers, with JetStream; that it syncs each message is not visible from here: its \
                 configuration needs `sync_interval: always`"
            ),
        ),
        // The server goes on without it, so the mode works.
        Ok(ServerReport { problem: Some(problem), .. }) => CheckResult::warning(
            CHECK,
            problem,
            "install nats-server 2.14 or later, with `jetstream` in its configuration; until then each node fills its \
             own pools",
        ),
        Err(error) => CheckResult::warning(
            CHECK,
            error.to_string(),
            "start NATS, or set NATS_URL to where it listens and how to log in; until then each node fills its own pools",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_nats_that_cannot_be_used_is_a_warning_with_a_remedy() {
        let report = |problem: Option<&str>| {
            judge(Ok(ServerReport { version: "2.15.1".to_owned(), problem: problem.map(str::to_owned) }))
        };
        let ok = report(None);
        assert_eq!(ok.verdict, Verdict::Ok);
        assert!(ok.found.contains("2.15.1") && ok.found.contains("sync_interval"));
        for judged in [report(Some("too old")), judge(Err(QueueError("refused".to_owned())))] {
            assert_eq!(judged.verdict, Verdict::Warning);
            assert!(judged.remedy.is_some());
        }
    }
}
