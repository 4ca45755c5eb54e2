//! The wall clock of one process, which a test sets while the process runs: libfaketime of the Debian package
//! `faketime`. The steady clocks of the process go on.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use crate::support::skip::skip;

/// Where Debian has the library, by architecture.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// The wall clock of the processes that are started with [`WallClock::variables`].
pub struct WallClock {
    library: &'static str,
    file: PathBuf,
}

impl WallClock {
    /// Returns a clock that differs from that of the host by so many hours. Returns `None` and prints why if the library
    /// is not installed.
    pub fn new(hours: i64) -> Option<Self> {
        let Some(library) = LIBRARIES.into_iter().find(|library| fs::exists(library).unwrap_or(false)) else {
            skip("the Debian package faketime is not installed");
            return None;
        };
        let file = env::temp_dir().join(format!("try-it-now-wall-clock-{}", uuid::Uuid::now_v7()));
        let clock = Self { library, file };
        clock.set(hours);
        Some(clock)
    }

    /// Sets the clock.
    pub fn set(&self, hours: i64) {
        // Renamed into place, so that no process reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}\n", hours * 3600)).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    /// Returns the variables for a process that goes by this clock.
    pub fn variables(&self) -> [(&str, &str); 5] {
        [
            ("LD_PRELOAD", self.library),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Returns how far a moment in RFC 3339 is ahead of the host's clock; zero if it is behind.
pub fn ahead_of_host(moment: &str) -> Duration {
    let moment = time::OffsetDateTime::parse(moment, &time::format_description::well_known::Rfc3339).unwrap();
    Duration::try_from(moment - time::OffsetDateTime::from(host_now())).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the test compares what is shown with the host's clock")]
fn host_now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
