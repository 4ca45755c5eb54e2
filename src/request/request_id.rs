//! A request's id.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The id of one request: on its response, in its log line, and sent on to the instance. 1 to 128 visible ASCII
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The header that carries it.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// The id that the client gave, if it is one, else a fresh UUID v7.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(Self::HEADER).and_then(|v| v.to_str().ok());
        match given {
            Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_graphic()) => {
                Self(id.into())
            }
            _ => Self::fresh(),
        }
    }

    fn fresh() -> Self {
        let id = uuid::Uuid::now_v7();
        Self((&*id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a header's value.
    pub fn value(&self) -> HeaderValue {
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
    fn a_fitting_id_is_kept_and_any_other_is_replaced() {
        assert_eq!(id("abc-123").as_str(), "abc-123");
        assert_eq!(id(&"x".repeat(128)).as_str().len(), 128);
        for bad in ["", "two words", &"x".repeat(129)] {
            assert_eq!(id(bad).as_str().len(), 36, "{bad:?}");
        }
    }
}
