//! Log lines on standard error.
//!
//! Lines of libraries are left out: Pingora's name request targets with their query strings, and a query string
//! may hold a key.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process. Fails when something else has started it already.
pub fn init(settings: Log) -> Result<(), TryInitError> {
    let ours = Targets::new().with_target("try_it_now", settings.level);
    let layer = match settings.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            fmt::layer().with_target(false).with_ansi(colours).with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(ours)).try_init()
}
