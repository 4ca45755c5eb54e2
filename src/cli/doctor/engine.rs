//! Checks the engine of the configured mode: whether it answers, and what it cannot do here.

use super::check_result::CheckResult;
use crate::config::RuntimeSettings;
use crate::server::backends::{self, EngineSummary};

/// Checks the engine, if the configured mode is one.
pub(super) async fn check(settings: &RuntimeSettings) -> Vec<CheckResult> {
    match backends::survey_engine(settings).await {
        None => Vec::new(),
        Some(Ok(engine)) => judge(&engine),
        Some(Err(error)) => {
            let remedy = "see docs/engines.md";
            vec![CheckResult::missing("engine", true, error.to_string(), remedy)]
        }
    }
}

fn judge(engine: &EngineSummary) -> Vec<CheckResult> {
    let mut results = vec![CheckResult::ok("engine", engine.title.clone())];
    if engine.is_published {
        results.push(CheckResult::missing(
            "engine network",
            false,
            "ports are published: templates without egress do not start",
            "run the server as root on the engine's host, or write egress = \"internet\"",
        ));
    }
    results.push(CheckResult::missing(
        "engine restore",
        false,
        "instances are started, not restored, share no memory, and limits.disk needs btrfs, or XFS with pquota, below the engine",
        match engine.has_containerd_images {
            true => "CONTAINER_MODE=containerd restores them; Docker's containerd has the images already",
            false => "CONTAINER_MODE=containerd restores them (docs/engines.md)",
        },
    ));
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check_result::Verdict;

    #[test]
    fn what_an_engine_cannot_do_is_a_warning_with_a_remedy() {
        let engine = EngineSummary {
            title: "Docker 20.10".to_owned(),
            is_published: true,
            has_containerd_images: false,
        };
        let results = judge(&engine);
        let verdicts: Vec<_> = results.iter().map(|result| result.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Warning, Verdict::Warning]);
        assert!(results[1..].iter().all(|result| result.remedy.is_some()));
        assert_eq!(judge(&EngineSummary { is_published: false, ..engine }).len(), 2);
    }
}
