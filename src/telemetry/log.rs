//! Log lines on standard error.
//!
//! A thread of its own writes them from a bounded buffer. If the reader of standard error is slow or has stopped, lines
//! are dropped and counted, and the server goes on.
//!
//! **Trap: Pingora logs request targets with their query strings, and a query string may hold a key.** So the log lines
//! of all libraries are left out.

use std::io::IsTerminal;
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, LogSettings};

/// Most lines that wait to be written. A line has some hundred bytes.
const MAX_BUFFERED_LINES: usize = 8192;

/// Counts the lines that were dropped; set when logging starts.
static DROPPED_LINES: OnceLock<ErrorCounter> = OnceLock::new();

/// As long as this is held, log lines are written. Dropping it writes the lines that wait, for a second at most.
#[derive(Debug)]
#[must_use]
pub struct LogGuard(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Starts logging for the whole process.
///
/// # Errors
/// Logging was started already.
pub fn init(settings: LogSettings) -> Result<LogGuard, TryInitError> {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped_lines = writer.error_counter();
    let own_targets = Targets::new().with_target("try_it_now", settings.level);
    let layer = match settings.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            fmt::layer().with_target(false).with_ansi(colours).with_writer(writer).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(own_targets)).try_init()?;
    // Logging starts once, so the counter is not set yet.
    let _ = DROPPED_LINES.set(dropped_lines);
    Ok(LogGuard(guard))
}

/// The metric of the log lines that were dropped because standard error was not read.
#[derive(Debug)]
pub(super) struct DroppedLogLines;

impl Collector for DroppedLogLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let dropped = DROPPED_LINES.get().map_or(0, ErrorCounter::dropped_lines);
        let counter = ConstCounter::new(dropped as u64);
        let help = "Log lines dropped because standard error was not read";
        let metric = encoder.encode_descriptor("log_lines_dropped", help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}
