//! The wall clock of one process, which a test sets while the process runs. The steady clocks of the process go on.
//!
//! libfaketime does the same, but Valkey's allocator hangs with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

/// The wall clock of the processes that are started with [`WallClock::variables`].
pub struct WallClock {
    folder: PathBuf,
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Returns a clock that differs from that of the host by so many hours.
    pub fn new(hours: i64) -> Self {
        let folder = env::temp_dir().join(format!("try-it-now-wall-clock-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/wall_clock.c");
        let clock = Self { library: folder.join("wall_clock.so"), file: folder.join("seconds"), folder };
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&clock.library).arg(source);
        let compiled = compiler.output().expect("a machine that links Rust has a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        clock.set(hours);
        clock
    }

    /// Sets the clock.
    pub fn set(&self, hours: i64) {
        // Renamed into place, so that no process reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, (hours * 3600).to_string()).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    /// Returns the variables for a process that goes by this clock.
    pub fn variables(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", self.library.to_str().unwrap()), ("WALL_CLOCK_FILE", self.file.to_str().unwrap())]
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns how far a moment in RFC 3339 is ahead of the host's clock; zero if it is behind.
pub fn ahead_of_host(moment: &str) -> Duration {
    let moment = time::OffsetDateTime::parse(moment, &time::format_description::well_known::Rfc3339).unwrap();
    Duration::try_from(moment - time::OffsetDateTime::from(host_now())).unwrap_or_default()
}

/// Returns the seconds since the Unix epoch by the host's clock.
pub fn seconds_of_host() -> i64 {
    time::OffsetDateTime::from(host_now()).unix_timestamp()
}

#[expect(clippy::disallowed_methods, reason = "the test compares what is shown with the host's clock")]
fn host_now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
