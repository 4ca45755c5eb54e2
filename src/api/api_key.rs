//! The API key.

use http::request::Parts;

use super::{Api, ApiError};

impl Api {
    /// Checks `X-API-Key`, or `?api_key=` for those who cannot send headers. Without a configured key all is open.
    pub(super) fn check_key(&self, parts: &Parts) -> Result<(), ApiError> {
        let Some(key) = &self.key else { return Ok(()) };
        let in_header = parts.headers.get("x-api-key").map(|value| value.as_bytes());
        let in_query = parts.uri.query().and_then(|query| query_value(query, "api_key"));
        let offered = in_header.or(in_query.as_deref());
        if offered.is_some_and(|offered| key.matches(offered)) { Ok(()) } else { Err(ApiError::Unauthorized) }
    }
}

/// The first value of a query parameter, percent-decoded.
pub(super) fn query_value(query: &str, name: &str) -> Option<Vec<u8>> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .map(|value| percent_encoding::percent_decode_str(value).collect())
}
