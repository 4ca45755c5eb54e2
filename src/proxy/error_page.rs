//! The response on an instance's host when no app responds: an error as a page, or as JSON.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};

use super::Proxy;
use super::headers::add_privacy_headers;
use crate::api::pages::{self, Page};
use crate::api::{ApiError, Body};
use crate::instance::InstanceId;
use crate::request::{RequestId, authority, canonical_host};

impl Proxy {
    /// Creates the response to a failed request: a page, or JSON for a client that accepts JSON and no HTML. A
    /// request that is refused as malformed is always answered in JSON: no browser sends one, and the guard refuses
    /// heads in JSON too.
    pub(super) fn error_response(
        &self,
        error: &ApiError,
        head: &Parts,
        request_id: &RequestId,
    ) -> Response<Body> {
        let is_refusal = matches!(
            error,
            ApiError::MalformedHead
                | ApiError::MalformedBody
                | ApiError::MethodNotAllowed(_)
                | ApiError::HeadersTooLarge
                | ApiError::TooLarge
                | ApiError::Timeout
        );
        if is_refusal || wants_json(&head.headers) {
            let mut response = error.to_response(request_id);
            add_privacy_headers(response.headers_mut());
            return response;
        }
        let page = self.error_page(error, head, request_id.as_str());
        let mut response = Response::new(Body::full(page.html));
        *response.status_mut() = error.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_SECURITY_POLICY, page.policy);
        headers.insert(RequestId::HEADER, request_id.to_header_value());
        error.add_headers(headers);
        add_privacy_headers(headers);
        response
    }

    fn error_page(&self, error: &ApiError, head: &Parts, request_id: &str) -> Page {
        let home = self.0.public_url.home_url();
        match error {
            ApiError::NotFound(_) => pages::instance_not_found(&home, request_id),
            ApiError::InstanceEnded(reason) => {
                pages::instance_ended(*reason, &template_name(head), &home, request_id)
            }
            ApiError::AppUnreachable | ApiError::AppTimeout => pages::app_unreachable(&home, request_id),
            ApiError::TooManyRequests | ApiError::InstanceBusy | ApiError::TooManyConnections => {
                pages::too_busy(&home, request_id)
            }
            ApiError::Misdirected => pages::misdirected(&home, request_id),
            _ => pages::internal_error(request_id),
        }
    }
}

/// Returns the name of the template in the host's label; empty if there is none. It serves only for the link of a page.
fn template_name(head: &Parts) -> String {
    authority(&head.uri, &head.headers)
        .and_then(canonical_host)
        .and_then(|host| InstanceId::parse(host.split('.').next()?).ok())
        .map_or_else(String::new, |id| id.template().to_owned())
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.contains("json") && !accept.contains("text/html")
}
