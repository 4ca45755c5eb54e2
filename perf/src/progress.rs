//! The line that shows how far a run is, on the standard error of a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Instant;

use crate::clock::now;

/// Where a run is.
struct Position {
    began: Instant,
    case: String,
    number: usize,
    of: usize,
}

static POSITION: Mutex<Option<Position>> = Mutex::new(None);

/// Begins a case, the `number`th of `of`.
pub(crate) fn begin_case(case: String, number: usize, of: usize) {
    if let Ok(mut position) = POSITION.lock() {
        let began = position.as_ref().map_or_else(now, |position| position.began);
        *position = Some(Position { began, case, number, of });
    }
    show("");
}

/// Shows that a step of the case begins, the `number`th of `of`.
pub(crate) fn step(what: &str, number: usize, of: usize) {
    show(&format!("{what} {number} of {of}"));
}

/// Shows what the case does.
pub(crate) fn show(what: &str) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let Ok(position) = POSITION.lock() else { return };
    let Some(Position { began, case, number, of }) = &*position else { return };
    let mut line = format!("\r\x1b[K[{} s] case {number} of {of}, {case}", began.elapsed().as_secs());
    if !what.is_empty() {
        let _ = write!(line, ": {what}");
    }
    // A line that cannot be shown changes nothing.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Prints a line to the standard output, where the line of progress is.
pub(crate) fn print(line: &str) {
    if std::io::stderr().is_terminal() {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
    println!("{line}");
}
