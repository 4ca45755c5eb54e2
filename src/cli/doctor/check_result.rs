//! The result of a check of the host, and its output as text and JSON.

use std::fmt::Write;

use serde::Serialize;

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// There is nothing to do.
    Ok,
    /// The configured mode works, but not as well as it could; or only another mode would not work.
    Warning,
    /// The configured mode does not work.
    Failed,
}

/// The result of one check. Each text is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CheckResult {
    /// The short name of the check, the same in each run.
    pub(super) check: &'static str,
    /// The verdict.
    pub(super) verdict: Verdict,
    /// What the check found.
    pub(super) found: String,
    /// How to fix the problem; `None` if there is none.
    pub(super) remedy: Option<String>,
}

impl CheckResult {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: one_line(found.into()), remedy: None }
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(one_line(remedy.into()));
        Self { check, verdict: Verdict::Warning, found: one_line(found.into()), remedy }
    }

    /// Returns the result for something missing: `Failed` if the configured mode needs it, else a warning.
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

/// Joins lines and removes control characters, because a tool's output may have both.
fn one_line(text: String) -> String {
    let words: Vec<_> = text.split(|c: char| c.is_control()).filter(|part| !part.trim().is_empty()).collect();
    words.join(" ")
}

/// Returns the results as text for people: a line for each, and one with the remedy below it.
pub(super) fn text(results: &[CheckResult]) -> String {
    let width = results.iter().map(|result| result.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for CheckResult { check, verdict, found, remedy } in results {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        // Writing into a `String` cannot fail.
        let _ = writeln!(text, "{verdict:8} {check:width$}  {found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:8} {:width$}  -> {remedy}", "", "");
        }
    }
    text
}

/// Returns the results as JSON: an array of objects with `check`, `verdict` (`ok`, `warning`, `failed`), `found` and
/// `remedy` (a text or null).
pub(super) fn json(results: &[CheckResult]) -> String {
    serde_json::to_string_pretty(results).expect("it has texts only") + "\n"
}

/// Returns whether the configured mode works.
pub(super) fn mode_works(results: &[CheckResult]) -> bool {
    results.iter().all(|result| result.verdict != Verdict::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_is_a_line_and_each_remedy_is_the_line_below_it() {
        let results = [
            CheckResult::ok("store", "embedded"),
            CheckResult::missing("criu", true, "two\nlines\x1b[1m", "install it"),
        ];
        let lines = text(&results);
        let lines: Vec<_> = lines.lines().map(str::trim).collect();
        assert_eq!(lines, ["ok       store  embedded", "failed   criu   two lines [1m", "-> install it"]);
        let json: serde_json::Value = serde_json::from_str(&json(&results)).unwrap();
        assert_eq!(json[0]["remedy"], serde_json::Value::Null);
        assert_eq!((json[1]["verdict"].as_str(), json[1]["check"].as_str()), (Some("failed"), Some("criu")));
    }

    #[test]
    fn what_only_another_mode_needs_is_a_warning() {
        assert_eq!(CheckResult::missing("a", false, "", "").verdict, Verdict::Warning);
        assert!(mode_works(&[CheckResult::missing("a", false, "", "")]));
        assert!(!mode_works(&[CheckResult::ok("b", ""), CheckResult::missing("a", true, "", "")]));
    }
}
