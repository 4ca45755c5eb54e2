//! What a bake did so that instances draw different random numbers, and which numbers may still be equal.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most reasons that are stored. An app decides how many there are.
const MAX_REASONS: usize = 8;

/// The random number generators of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RandomNumbers {
    /// OpenSSL's generators that each instance seeds anew.
    #[serde(rename = "openssl")]
    pub(super) openssl_generators: u64,
    /// Ranges of memory that say whether a process is a child, and that are zero in each instance.
    #[serde(rename = "wiped")]
    pub(super) wiped_ranges: u64,
    /// Which generators may draw the same numbers in several instances, and what to do.
    #[serde(rename = "may_repeat")]
    pub(super) may_repeat: BTreeSet<String>,
}

impl RandomNumbers {
    /// Adds a generator that may draw the same numbers in several instances.
    pub(super) fn add_repeating(&mut self, reason: String) {
        if self.may_repeat.len() < MAX_REASONS {
            self.may_repeat.insert(reason);
        }
    }

    /// Returns which generators may draw the same numbers in several instances.
    pub(crate) fn may_repeat(&self) -> impl Iterator<Item = &str> {
        self.may_repeat.iter().map(String::as_str)
    }

    /// Describes what was done and what may repeat.
    pub(crate) fn describe(&self) -> String {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let mut parts = vec![
            format!(
                "random numbers: {} generator{} of OpenSSL reset",
                self.openssl_generators,
                plural(self.openssl_generators)
            ),
            format!("{} fork-aware range{} cleared", self.wiped_ranges, plural(self.wiped_ranges)),
        ];
        if self.may_repeat.is_empty() {
            parts.push("no known generator repeats".to_owned());
        }
        parts.extend(self.may_repeat().map(|reason| format!("may repeat: {reason}")));
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_says_what_may_repeat() {
        let mut report = RandomNumbers { openssl_generators: 3, wiped_ranges: 1, ..RandomNumbers::default() };
        let done = "random numbers: 3 generators of OpenSSL reset; 1 fork-aware range cleared";
        assert_eq!(report.describe(), format!("{done}; no known generator repeats"));
        report.add_repeating("one".to_owned());
        report.add_repeating("one".to_owned());
        assert_eq!(report.describe(), format!("{done}; may repeat: one"));
        (0..99).for_each(|number| report.add_repeating(format!("reason {number}")));
        assert_eq!(report.may_repeat().count(), MAX_REASONS);
    }

    #[test]
    fn a_stored_report_is_read_whichever_version_wrote_it() {
        let stored = json!({ "openssl": 3, "wiped": 1, "may_repeat": ["one"] });
        let report: RandomNumbers = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap(), stored);
    }
}
