//! Keeps the last output of an instance.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes after which the reader pauses. An app that writes without end must not cost the server a processor: the pipe
/// fills up and the app waits. About 5 MB/s remain possible.
const BURST_BYTES: usize = 256 * 1024;
/// Length of the reader's pause after a burst.
const PAUSE_AFTER_BURST: Duration = Duration::from_millis(50);

/// A ring buffer of output: bytes beyond `limit` push out the oldest.
#[derive(Debug)]
pub(super) struct OutputLog {
    ring: Mutex<VecDeque<u8>>,
    limit: usize,
}

impl OutputLog {
    /// Returns an empty log that keeps the last `limit` bytes. It uses memory only as it fills.
    pub(crate) fn new(limit: usize) -> Self {
        Self { ring: Mutex::new(VecDeque::new()), limit }
    }

    /// Appends output.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let mut ring = self.ring.lock();
        let excess = (ring.len() + bytes.len()).saturating_sub(self.limit);
        ring.drain(..excess);
        ring.extend(bytes);
    }

    /// Returns all kept output, oldest first.
    pub(crate) fn bytes(&self) -> Bytes {
        let ring = self.ring.lock();
        let (old, new) = ring.as_slices();
        Bytes::from([old, new].concat())
    }

    /// Reads output until no process holds the pipe open for writing. May be dropped at any time; the output read by
    /// then is kept.
    pub(super) async fn fill_from(&self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        let mut since_pause = 0;
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    self.push(&buffer[..n]);
                    since_pause += n;
                }
            }
            if since_pause >= BURST_BYTES {
                since_pause = 0;
                tokio::time::sleep(PAUSE_AFTER_BURST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn a_log_is_the_end_of_all_that_was_written(
            limit in 0_usize..40,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..10),
        ) {
            let log = OutputLog::new(limit);
            for write in &writes {
                log.push(write);
            }
            let all = writes.concat();
            prop_assert_eq!(&log.bytes()[..], &all[all.len().saturating_sub(limit)..]);
        }
    }
}
