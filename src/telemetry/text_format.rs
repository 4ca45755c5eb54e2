//! Converts OpenMetrics text to the older text format of Prometheus.
//!
//! For the metrics of this server the formats differ in three points. The older format names a counter with its
//! `_total` in comment lines, too; it has no `# UNIT`; and it has no `# EOF`.

use std::collections::HashSet;

/// Returns the samples of an OpenMetrics page in the older format.
pub(super) fn from_openmetrics(page: &str) -> String {
    let counters: HashSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(page.len() + 64 * counters.len());
    for line in page.lines() {
        match split_comment(line) {
            Some(("EOF" | "UNIT", ..)) => continue,
            Some((keyword, name, rest)) if counters.contains(name) => {
                text.push_str(&format!("# {keyword} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Splits a comment line into its keyword, the metric's name and the rest. Returns `None` for any other line.
fn split_comment(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.strip_prefix("# ")?.splitn(3, ' ');
    Some((words.next()?, words.next().unwrap_or(""), words.next().unwrap_or("")))
}
