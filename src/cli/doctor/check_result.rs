//! What a check found, and how it is told.

use std::fmt::Write;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// The configured mode works without it, but not as well, or another mode would not.
    Warning,
    /// The configured mode does not work.
    Failed,
}

/// What one check found. Its texts are one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// What was looked at: short, lower case, the same in each run.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What there is.
    pub found: String,
    /// What to do about it, unless all is well.
    pub remedy: Option<String>,
}

impl CheckResult {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: one_line(found.into()), remedy: None }
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(one_line(remedy.into()));
        Self { check, verdict: Verdict::Warning, found: one_line(found.into()), remedy }
    }

    /// Something is missing without which the configured mode does not work, if it is `needed` there.
    pub(super) fn missing(
        check: &'static str,
        needed: bool,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let verdict = if needed { Verdict::Failed } else { Verdict::Warning };
        Self { verdict, ..Self::warning(check, found, remedy) }
    }
}

/// What tools say may have several lines, and characters that a terminal obeys.
fn one_line(text: String) -> String {
    let words: Vec<_> = text.split(|c: char| c.is_control()).filter(|part| !part.trim().is_empty()).collect();
    words.join(" ")
}

/// For people: a line a finding, and one with the remedy below it.
pub fn text(findings: &[CheckResult]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for CheckResult { check, verdict, found, remedy } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{verdict:8} {check:width$}  {found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:8} {:width$}  -> {remedy}", "", "");
        }
    }
    text
}

/// For programs: an array of objects with `check`, `verdict` (`ok`, `warning`, `failed`), `found` and `remedy` (a
/// text or null).
pub fn json(findings: &[CheckResult]) -> String {
    serde_json::to_string_pretty(findings).expect("it is texts only") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_each_remedy_one_below() {
        let findings = [
            CheckResult::ok("store", "embedded"),
            CheckResult::missing("criu", true, "two\nlines\x1b[1m", "install it"),
        ];
        let lines = text(&findings);
        let lines: Vec<_> = lines.lines().map(str::trim).collect();
        assert_eq!(lines, ["ok       store  embedded", "failed   criu   two lines [1m", "-> install it"]);
        let told: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(told[0]["remedy"], serde_json::Value::Null);
        assert_eq!((told[1]["verdict"].as_str(), told[1]["check"].as_str()), (Some("failed"), Some("criu")));
    }

    #[test]
    fn what_another_mode_would_need_is_a_warning() {
        assert_eq!(CheckResult::missing("a", false, "", "").verdict, Verdict::Warning);
        assert!(crate::cli::doctor::works(&[CheckResult::missing("a", false, "", "")]));
        assert!(!crate::cli::doctor::works(&[
            CheckResult::ok("b", ""),
            CheckResult::missing("a", true, "", "")
        ]));
    }
}
