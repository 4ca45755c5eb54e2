//! The id of a request.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The id of one request. The response and the log line have it, and the instance receives it. It consists of 1 to 128
/// visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

/// Random bytes of a new id.
const RANDOM_BYTES: usize = 10;
/// How many ids the random bytes of a thread suffice for.
const BUFFERED_IDS: usize = 64;
/// How long the random bytes of a thread are used, in milliseconds.
const MAX_AGE_MILLIS: u64 = 1000;

/// Random bytes of the system for ids, several at a time: to ask the system for each id costs a microsecond.
///
/// No two processes use the same bytes: the server never forks without executing another program, and a copy of a whole
/// machine goes on at a later time, when the bytes are too old.
struct RandomBytes {
    bytes: [u8; RANDOM_BYTES * BUFFERED_IDS],
    used: usize,
    filled_at: u64,
}

thread_local! {
    static RANDOM: RefCell<RandomBytes> = const {
        RefCell::new(RandomBytes { bytes: [0; RANDOM_BYTES * BUFFERED_IDS], used: usize::MAX, filled_at: 0 })
    };
}

impl RandomBytes {
    /// Returns bytes that no other call returns.
    fn take(&mut self, now: u64) -> [u8; RANDOM_BYTES] {
        if self.used >= BUFFERED_IDS || now.abs_diff(self.filled_at) > MAX_AGE_MILLIS {
            getrandom::fill(&mut self.bytes).expect("the system has random numbers");
            (self.used, self.filled_at) = (0, now);
        }
        let start = self.used * RANDOM_BYTES;
        self.used += 1;
        std::array::from_fn(|at| self.bytes[start + at])
    }
}

impl RequestId {
    /// The header that carries the id.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// Returns the id that the client sent if it is valid, else a new UUID v7.
    pub fn of(headers: &HeaderMap) -> Self {
        let received = headers.get(Self::HEADER).and_then(|v| v.to_str().ok());
        match received {
            Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_graphic()) => {
                Self(id.into())
            }
            _ => Self::generate(),
        }
    }

    /// Returns a new id.
    pub fn generate() -> Self {
        let (seconds, nanos) = uuid::Timestamp::now(uuid::NoContext).to_unix();
        let millis = seconds * 1000 + u64::from(nanos / 1_000_000);
        let random = RANDOM.with_borrow_mut(|random| random.take(millis));
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        Self((&*id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())).into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id as the value of a header.
    pub fn to_header_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("visible ASCII is a header value")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: &str) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(RequestId::HEADER, HeaderValue::from_str(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn new_ids_differ_and_are_ordered_by_time() {
        let ids: Vec<_> = (0..1000).map(|_| RequestId::generate()).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().map(RequestId::as_str).collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id.as_str()).unwrap().get_version_num() == 7));
        let mut random =
            RandomBytes { bytes: [0; RANDOM_BYTES * BUFFERED_IDS], used: usize::MAX, filled_at: 0 };
        let first = random.take(1);
        assert_ne!(random.take(1), first);
        let before = random.bytes;
        random.take(2 + MAX_AGE_MILLIS);
        assert_ne!(random.bytes, before, "bytes that are too old are not used");
    }

    #[test]
    fn a_valid_id_is_kept_and_any_other_is_replaced() {
        assert_eq!(id("abc-123").as_str(), "abc-123");
        assert_eq!(id(&"x".repeat(128)).as_str().len(), 128);
        for bad in ["", "two words", &"x".repeat(129)] {
            assert_eq!(id(bad).as_str().len(), 36, "{bad:?}");
        }
    }
}
