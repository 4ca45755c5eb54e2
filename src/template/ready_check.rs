//! The ready check: when an instance counts as ready.

use std::time::Duration;

use serde::Serialize;

/// How readiness is checked: `GET path` is repeated until the answer has the expected status and text. Redirects are
/// not followed. Its JSON is part of the template's [revision](super::Template::revision).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadyCheck {
    /// Path and query; begins with a slash.
    pub path: String,
    /// The expected status.
    pub status: u16,
    /// A text that the body must contain.
    pub body: Option<String>,
    /// Time between two attempts.
    pub interval: Duration,
    /// Time after which the check fails and the instance is removed.
    pub timeout: Duration,
    /// Whether the health check of the image decides in place of path, status and text, where it has one: the template
    /// declares none of these. No part of the revision.
    #[serde(skip)]
    pub yields_to_image: bool,
}

impl Default for ReadyCheck {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            status: 200,
            body: None,
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(60),
            yields_to_image: false,
        }
    }
}
