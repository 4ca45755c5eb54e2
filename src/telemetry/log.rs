//! Log lines on standard error.
//!
//! **Trap: Pingora logs request targets with their query strings, and a query string may hold a key.** So the log lines
//! of all libraries are left out.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, LogSettings};

/// Starts logging for the whole process.
///
/// # Errors
/// Logging was started already.
pub fn init(settings: LogSettings) -> Result<(), TryInitError> {
    let own_targets = Targets::new().with_target("try_it_now", settings.level);
    let layer = match settings.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            fmt::layer().with_target(false).with_ansi(colours).with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(own_targets)).try_init()
}
