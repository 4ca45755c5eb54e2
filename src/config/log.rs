//! What is logged and how, from the environment.

use tracing::Level;

use super::env::Variables;

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Lines of this level and of graver levels are logged.
    pub level: Level,
    /// The format of a line.
    pub format: LogFormat,
}

/// The format of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

impl LogSettings {
    pub(super) fn read(env: &mut Variables<'_>) -> Self {
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        Self {
            level: env.word("LOG_LEVEL", "info", &levels),
            format: env.word("LOG_FORMAT", "json", &[("json", LogFormat::Json), ("text", LogFormat::Text)]),
        }
    }
}
