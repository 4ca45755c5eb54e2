//! The health check in an image's configuration. Pure.

use std::time::Duration;

use serde::Deserialize;

use crate::template::HealthCheck;

/// Docker's defaults.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The shell of an image that names none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A health check as Docker stores it. Times are nanoseconds, and 0 means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct StoredHealthCheck {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
}

impl StoredHealthCheck {
    /// Returns the health check; `None` if the image has none or of an unknown form. `shell` is the image's shell.
    pub(crate) fn read(&self, shell: Option<&[String]>) -> Option<HealthCheck> {
        let (kind, words) = self.test.as_ref()?.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let default = || DEFAULT_SHELL.map(str::to_owned).to_vec();
                let shell = shell.filter(|shell| !shell.is_empty()).map_or_else(default, <[String]>::to_vec);
                shell.into_iter().chain(words.iter().cloned()).collect()
            }
            _ => return None,
        };
        let time = |nanoseconds: u64, default| match nanoseconds {
            0 => default,
            given => Duration::from_nanos(given),
        };
        let interval = time(self.interval, DEFAULT_INTERVAL);
        (!command.is_empty()).then(|| HealthCheck {
            command,
            interval: time(self.start_interval, interval),
            timeout: time(self.timeout, DEFAULT_TIMEOUT),
            start_period: Duration::from_nanos(self.start_period),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(stored: serde_json::Value, shell: Option<&[String]>) -> Option<HealthCheck> {
        serde_json::from_value::<StoredHealthCheck>(stored).unwrap().read(shell)
    }

    #[test]
    fn commands_are_read_in_both_forms_with_the_defaults_of_docker() {
        let check = read(json!({ "Test": ["CMD", "curl", "-f", "http://localhost/"] }), None).unwrap();
        assert_eq!(check.command, ["curl", "-f", "http://localhost/"]);
        assert_eq!((check.interval, check.timeout), (DEFAULT_INTERVAL, DEFAULT_TIMEOUT));
        assert_eq!(check.start_period, Duration::ZERO);
        let stored = json!({
            "Test": ["CMD-SHELL", "test -e /up || exit 1"],
            "Interval": 5_000_000_000_u64, "Timeout": 2_000_000_000_u64, "StartPeriod": 90_000_000_000_u64,
            "Retries": 3,
        });
        let check = read(stored.clone(), None).unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "test -e /up || exit 1"]);
        let seconds = [check.interval, check.timeout, check.start_period].map(|time| time.as_secs());
        assert_eq!(seconds, [5, 2, 90]);
        let bash = ["/bin/bash".to_owned(), "-lc".to_owned()];
        assert_eq!(read(stored, Some(&bash)).unwrap().command[..2], bash);
    }

    #[test]
    fn no_check_is_none() {
        for test in [json!(null), json!([]), json!(["NONE"]), json!(["CMD"]), json!(["OTHER", "x"])] {
            assert_eq!(read(json!({ "Test": test }), None), None, "{test}");
        }
    }
}
