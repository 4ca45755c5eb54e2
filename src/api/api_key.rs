//! The check of the API key.

use http::request::Parts;

use super::request::query_parameter;
use super::{Api, ApiError, ApiRequest};
use crate::pool::Asker;

impl Api {
    /// Checks the header `X-API-Key`, or the query parameter `api_key`, which is for clients that cannot set headers,
    /// such as a browser's `EventSource`. If no key is configured, every request passes.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] when the key is wrong or missing.
    pub(super) fn check_api_key(&self, head: &Parts) -> Result<(), ApiError> {
        let Some(api_key) = &self.api_key else { return Ok(()) };
        let in_header = head.headers.get("x-api-key").map(|value| value.as_bytes());
        let in_query = head.uri.query().and_then(|query| query_parameter(query, "api_key"));
        let offered = in_header.or(in_query.as_deref());
        if offered.is_some_and(|offered| api_key.matches(offered)) {
            Ok(())
        } else {
            Err(ApiError::Unauthorized)
        }
    }

    /// Returns who asks for an instance by its id. A client with the API key may ask for as many unknown ids as it
    /// likes.
    pub(super) fn asker(&self, request: &ApiRequest<'_>) -> Asker {
        if self.api_key.is_some() && self.check_api_key(request.head).is_ok() {
            return Asker::Trusted;
        }
        Asker::Client(request.client.address)
    }
}
