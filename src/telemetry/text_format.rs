//! From OpenMetrics text to Prometheus' older text format.
//!
//! They differ, for the metrics we have, in three things: the older one names a counter with its `_total` in the
//! comment lines too, knows no `# UNIT`, and has no `# EOF`.

use std::collections::HashSet;

/// The same samples in the older format.
pub(super) fn from_openmetrics(page: &str) -> String {
    let counters: HashSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(page.len() + 64 * counters.len());
    for line in page.lines() {
        match comment(line) {
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

/// Keyword, name and the rest of a comment line.
fn comment(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.strip_prefix("# ")?.splitn(3, ' ');
    Some((words.next()?, words.next().unwrap_or(""), words.next().unwrap_or("")))
}
