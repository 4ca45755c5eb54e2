//! `POST /try/{template}` and `POST /end/{id}`: the buttons of the front page. They are forms, so that no prefetch
//! and no crawler spends an instance, and work without JavaScript.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, header};

use super::front_page::{clear_cookie, set_cookie};
use crate::api::pages;
use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::InstanceId;
use crate::pool::Acquired;
use crate::store::{StoreError, Visitor};

impl Api {
    /// Gives the visitor an instance and sends the browser there.
    pub(crate) async fn take(
        &self,
        template: &str,
        asked: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let visitor = Visitor(asked.client.rate_limit_key());
        let Acquired { instance, delivery, .. } = match self.pool.acquire(template, visitor).await {
            Ok(acquired) => acquired,
            Err(error) => return Ok(problem(&error.into(), template, &asked)),
        };
        // A template that was taken out a moment ago extends nothing any more.
        let granted = instance.lease().map_or(Duration::ZERO, |l| l.deadline().since(l.assigned_at()));
        let longest = self.pool.templates().get(template).map_or(granted, |template| template.max_ttl);
        let mut answer = response::see_other(&self.pool.address().instance_url(instance.id()));
        answer = answer.map(|body| body.handing(delivery));
        add_cookie(&mut answer, &set_cookie(instance.id(), longest, asked.client.secure));
        Ok(answer)
    }

    /// Gives an instance back. Whoever knows its id may.
    pub(crate) async fn end(&self, id: &str, asked: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        let mut answer = response::see_other("/");
        let Ok(id) = InstanceId::parse(id) else { return Ok(answer) };
        match self.pool.release(&id).await {
            Ok(_) | Err(StoreError::Unknown | StoreError::Refused(_)) => {
                add_cookie(&mut answer, &clear_cookie(id.template()));
                Ok(answer)
            }
            Err(error) => {
                let error = ApiError::from_store(error, "RELEASE_ERROR");
                Ok(problem(&error, id.template(), &asked))
            }
        }
    }
}

/// Whether the client would rather see a page than JSON.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|kinds| kinds.contains("text/html")))
}

pub(crate) fn add_cookie(answer: &mut Response<Body>, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        answer.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// An error as a page, for a person who pressed a button.
fn problem(error: &ApiError, template: &str, asked: &ApiRequest<'_>) -> Response<Body> {
    let request_id = asked.id.as_str();
    let page = match error {
        ApiError::RateLimited(limited) => pages::rate_limited(limited, request_id),
        ApiError::PoolExhausted(wait) => pages::busy(template, *wait, request_id),
        ApiError::NotFound(_) => pages::no_template(request_id),
        _ => pages::trouble(request_id),
    };
    let mut answer = response::html(error.status(), page);
    error.decorate(answer.headers_mut());
    answer
}
