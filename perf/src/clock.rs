//! The current time.

use std::time::Instant;

/// Returns the current time.
#[expect(
    clippy::disallowed_methods,
    reason = "it measures, and nothing here is to be tested with another time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
