//! What a visitor of an instance's host sees when there is no answer of the app.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};

use super::Proxy;
use crate::api::pages;
use crate::api::pages::Page;
use crate::api::{ApiError, Body};
use crate::request::{RequestId, authority, canonical_host};

impl Proxy {
    /// A failure as a page, or as JSON for who accepts that and no page. No browser sends what is refused as a
    /// message, so that is always told in JSON, as it is to a client whose head was refused before it came here.
    pub(super) fn failure(&self, error: &ApiError, head: &Parts, id: &RequestId) -> Response<Body> {
        let is_refusal = matches!(
            error,
            ApiError::MalformedHead | ApiError::HeadersTooLarge | ApiError::TooLarge | ApiError::Timeout
        );
        if is_refusal || wants_json(&head.headers) {
            return error.answer(id);
        }
        let page = self.page(error, head, id.as_str());
        let mut answer = Response::new(Body::full(page.html));
        *answer.status_mut() = error.status();
        let fields = answer.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert(header::CONTENT_SECURITY_POLICY, page.policy);
        fields.insert(RequestId::HEADER, id.value());
        error.decorate(fields);
        answer
    }

    fn page(&self, error: &ApiError, head: &Parts, id: &str) -> Page {
        let home = self.0.pool.address().home_url();
        match error {
            ApiError::NotFound(_) => pages::no_instance(&home, id),
            ApiError::Ended(ending) => pages::ended(*ending, &template_in(head), &home, id),
            ApiError::Unreachable | ApiError::Silent => pages::unreachable(&home, id),
            ApiError::Misdirected => pages::misdirected(&home, id),
            _ => pages::trouble(id),
        }
    }
}

/// The template that the host's label names; only used for the text and the link of a page.
fn template_in(head: &Parts) -> String {
    authority(&head.uri, &head.headers)
        .and_then(canonical_host)
        .and_then(|host| crate::instance::InstanceId::parse(host.split('.').next()?).ok())
        .map_or_else(String::new, |id| id.template().to_owned())
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.contains("json") && !accept.contains("text/html")
}
