//! What an engine's errors mean, in words for the operator.

use std::io;

use bollard::errors::Error;

use crate::runtime::RuntimeError;

/// Statuses of the API.
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const CONFLICT: u16 = 409;
const NOT_MODIFIED: u16 = 304;

/// Adds the failed operation to an error of the engine.
pub(super) trait EngineContext<T> {
    /// Turns an error of the engine into an error of the runtime. `operation` is a verb and its object.
    fn engine_context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError>;

    /// Like [`engine_context`](Self::engine_context) for the steps of a start: what the engine says about the request
    /// is a reason why the app cannot be started.
    fn start_context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError>;

    /// Returns `None` where the object of the operation does not exist, or is already as it should be.
    fn if_found(self, operation: impl FnOnce() -> String) -> Result<Option<T>, RuntimeError>;
}

impl<T> EngineContext<T> for Result<T, Error> {
    fn engine_context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|error| RuntimeError::Io { operation: operation(), source: to_io(error) })
    }

    fn start_context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|error| match explain_start(&error) {
            Some(why) => RuntimeError::Start(why),
            None => RuntimeError::Io { operation: operation(), source: to_io(error) },
        })
    }

    fn if_found(self, operation: impl FnOnce() -> String) -> Result<Option<T>, RuntimeError> {
        match self {
            Err(error) if matches!(status(&error), Some(NOT_FOUND | NOT_MODIFIED)) => Ok(None),
            other => other.engine_context(operation).map(Some),
        }
    }
}

/// Returns the status with which the engine answered.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Returns what the engine said; `None` where it did not answer.
pub(super) fn said(error: &Error) -> Option<&str> {
    match error {
        Error::DockerResponseServerError { message, .. } => Some(message),
        Error::DockerStreamError { error } => Some(error),
        _ => None,
    }
}

/// Returns why a start failed; `None` where the engine did not answer.
fn explain_start(error: &Error) -> Option<String> {
    let text = said(error)?.trim();
    let remedy = if text.contains("no space left on device") {
        ": make room on the file system of the engine's data"
    } else if text.contains("permission denied") && text.contains("rlimit") {
        ": the engine may not raise limits, lower open_files of the template"
    } else {
        ""
    };
    Some(format!("{text}{remedy}"))
}

/// Returns the error of the system below an error of the engine, with the whole text.
pub(super) fn to_io(error: Error) -> io::Error {
    let kind = match &error {
        Error::RequestTimeoutError => io::ErrorKind::TimedOut,
        Error::IOError { err } => err.kind(),
        other => kind_below(other).unwrap_or(io::ErrorKind::Other),
    };
    let text = match said(&error) {
        Some(text) => text.trim().to_owned(),
        None if kind == io::ErrorKind::TimedOut => "the engine does not answer".to_owned(),
        None => whole_text(&error),
    };
    io::Error::new(kind, text)
}

/// Returns the kind of the system's error that caused another one.
pub(super) fn kind_below(error: &dyn std::error::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(system) = error.downcast_ref::<io::Error>() {
            return Some(system.kind());
        }
        cause = error.source();
    }
    None
}

/// Returns the texts of an error and of what caused it, each once.
fn whole_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
