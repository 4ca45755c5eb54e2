//! Log lines of problems, for a command that shows them in its result.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

/// Most bytes of all lines. Further lines are dropped.
const MAX_BYTES: usize = 64 << 10;

/// The warnings and errors that were logged since [`collect_problems`].
#[derive(Debug, Clone, Default)]
pub struct CollectedProblems(Arc<Mutex<Vec<u8>>>);

/// Collects the warnings and errors of the whole process in place of writing log lines.
///
/// # Errors
/// Logging was started already.
pub fn collect_problems() -> Result<CollectedProblems, TryInitError> {
    let collected = CollectedProblems::default();
    let own_targets = Targets::new().with_target("try_it_now", LevelFilter::WARN);
    let layer = fmt::layer()
        .with_target(false)
        .with_level(false)
        .with_ansi(false)
        .without_time()
        .with_writer(collected.clone());
    tracing_subscriber::registry().with(layer.with_filter(own_targets)).try_init()?;
    Ok(collected)
}

impl CollectedProblems {
    /// Returns the lines, each once, in the order of their first occurrence.
    pub fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if !lines.iter().any(|known| known == line) {
                lines.push(line.to_owned());
            }
        }
        lines
    }
}

impl Write for CollectedProblems {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut collected = self.0.lock();
        let room = MAX_BYTES.saturating_sub(collected.len()).min(bytes.len());
        collected.extend_from_slice(&bytes[..room]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for CollectedProblems {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_collected_once_and_no_more_than_the_limit() {
        let mut collected = CollectedProblems::default();
        for line in ["first a=1\n", "second\n", "first a=1\n", "\n"] {
            collected.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(collected.lines(), ["first a=1", "second"]);
        collected.write_all(&vec![b'x'; 2 * MAX_BYTES]).unwrap();
        assert_eq!(collected.0.lock().len(), MAX_BYTES);
    }
}
