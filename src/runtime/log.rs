//! The last output of an instance.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

/// An app that writes without end must not cost the server a processor: after this many bytes the reader rests,
/// the pipe fills up, and the app waits. About 5 MB/s are left to it.
const BURST: usize = 256 * 1024;
const REST: Duration = Duration::from_millis(50);

/// A ring of bytes: what is added beyond `limit` pushes out the oldest.
#[derive(Debug)]
pub(crate) struct Log {
    ring: Mutex<VecDeque<u8>>,
    limit: usize,
}

impl Log {
    /// An empty log that keeps the last `limit` bytes. It takes memory only as it fills.
    pub(crate) fn new(limit: usize) -> Self {
        Self { ring: Mutex::new(VecDeque::new()), limit }
    }

    /// Adds output.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let mut ring = self.ring.lock();
        let excess = (ring.len() + bytes.len()).saturating_sub(self.limit);
        ring.drain(..excess);
        ring.extend(bytes);
    }

    /// All that is kept, oldest first.
    pub(crate) fn bytes(&self) -> Bytes {
        let ring = self.ring.lock();
        let (old, new) = ring.as_slices();
        Bytes::from([old, new].concat())
    }

    /// Reads the output until nobody can write any more.
    pub(crate) async fn fill_from(&self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        let mut since_rest = 0;
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    self.push(&buffer[..n]);
                    since_rest += n;
                }
            }
            if since_rest >= BURST {
                since_rest = 0;
                tokio::time::sleep(REST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_log_is_the_end_of_all_that_was_written(
            limit in 0_usize..40,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..10),
        ) {
            let log = Log::new(limit);
            for write in &writes {
                log.push(write);
            }
            let all = writes.concat();
            prop_assert_eq!(&log.bytes()[..], &all[all.len().saturating_sub(limit)..]);
        }
    }
}
