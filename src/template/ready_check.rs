//! When an instance counts as ready.

use std::time::Duration;

use serde::Serialize;

/// How to find out that an app answers: `GET path` until the status (and the text) is right. Redirects are not
/// followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadyCheck {
    /// Path and query; begins with a slash.
    pub path: String,
    /// The status to wait for.
    pub status: u16,
    /// A text that the body must contain.
    pub body: Option<String>,
    /// Time between two attempts.
    pub interval: Duration,
    /// Time after which the instance is given up.
    pub timeout: Duration,
}

impl Default for ReadyCheck {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            status: 200,
            body: None,
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(60),
        }
    }
}
