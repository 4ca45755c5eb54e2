//! `POST /try/{template}` and `POST /end/{id}`: the buttons of the front page. They are forms, so that no prefetch
//! and no crawler spends an instance, and work without JavaScript.

use http::{HeaderValue, Response, header};

use super::front::{clear_cookie, set_cookie};
use super::{Api, ApiError, Asked, Body, answer};
use crate::instance::InstanceId;
use crate::pages;
use crate::store::{StoreError, Visitor};

impl Api {
    /// Gives the visitor an instance and sends the browser there.
    pub(super) async fn take(&self, template: &str, asked: Asked<'_>) -> Result<Response<Body>, ApiError> {
        let visitor = Visitor(asked.client.rate_limit_key());
        let instance = match self.pool.acquire(template, visitor).await {
            Ok(acquired) => acquired.instance,
            Err(error) => return Ok(problem(&error.into(), template, asked.id.as_str())),
        };
        let seconds = instance.lease().map_or(0, |l| l.deadline().since(l.assigned_at()).as_secs());
        let mut answer = answer::see_other(&self.pool.address().instance_url(instance.id()));
        add_cookie(&mut answer, &set_cookie(&instance, seconds, asked.client.secure));
        Ok(answer)
    }

    /// Gives an instance back. Whoever knows its id may.
    pub(super) async fn end(&self, id: &str) -> Result<Response<Body>, ApiError> {
        let mut answer = answer::see_other("/");
        let Ok(id) = InstanceId::parse(id) else { return Ok(answer) };
        match self.pool.release(&id).await {
            Ok(_) | Err(StoreError::Unknown | StoreError::Refused(_)) => {
                add_cookie(&mut answer, &clear_cookie(id.template()));
                Ok(answer)
            }
            Err(error) => Err(ApiError::from_store(error, "RELEASE_ERROR")),
        }
    }
}

fn add_cookie(answer: &mut Response<Body>, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        answer.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// An error as a page, for a person who pressed a button.
fn problem(error: &ApiError, template: &str, request_id: &str) -> Response<Body> {
    let page = match error {
        ApiError::RateLimited(limited) => pages::rate_limited(limited, request_id),
        ApiError::PoolExhausted(wait) => pages::busy(template, *wait, request_id),
        ApiError::NotFound(_) => pages::no_template(request_id),
        _ => pages::trouble(request_id),
    };
    let mut answer = answer::html(error.status(), page);
    error.decorate(answer.headers_mut());
    answer
}
