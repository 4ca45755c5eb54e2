//! The health check that an image declares.

use std::time::Duration;

/// A command that an image declares to find out whether its app works (`HEALTHCHECK` in a Dockerfile). It exits with 0
/// when the app works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Time between two runs.
    pub interval: Duration,
    /// Time after which a run is killed and counts as failed.
    pub timeout: Duration,
    /// Time that the app may take to start, in addition to what every app may take.
    pub start_period: Duration,
}
