//! The id of a request.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The id of one request. The response and the log line have it, and the instance receives it. It consists of 1 to 128
/// visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

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

    fn generate() -> Self {
        let id = uuid::Uuid::now_v7();
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
    fn a_valid_id_is_kept_and_any_other_is_replaced() {
        assert_eq!(id("abc-123").as_str(), "abc-123");
        assert_eq!(id(&"x".repeat(128)).as_str().len(), 128);
        for bad in ["", "two words", &"x".repeat(129)] {
            assert_eq!(id(bad).as_str().len(), 36, "{bad:?}");
        }
    }
}
