//! `POST /try/{template}` and `POST /end/{id}`: the buttons of the front page.
//!
//! The buttons are forms that post: no prefetch and no crawler acquires an instance, and they work without JavaScript.

use std::time::Duration;

use http::Response;

use super::instance_cookie;
use crate::api::{Api, ApiError, ApiRequest, Body, pages, response};
use crate::instance::InstanceId;
use crate::pool::Acquired;
use crate::store::StoreError;

impl Api {
    /// Acquires an instance for the visitor and redirects the browser to it. An error is answered with a page.
    pub(in crate::api) async fn try_template(
        &self,
        template: &str,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let visitor = request.client.visitor();
        let Acquired { instance, delivery, .. } = match self.pool.acquire(template, visitor).await {
            Ok(acquired) => acquired,
            Err(error) => return Ok(error_page(&error.into(), template, &request)),
        };
        // If the template was removed a moment ago, the lease cannot be extended: its own TTL is the longest.
        let granted = instance.lease().map_or(Duration::ZERO, |l| l.deadline().since(l.assigned_at()));
        let max_ttl = self.pool.templates().get(template).map_or(granted, |template| template.max_ttl);
        let mut response = response::see_other(&self.pool.public_url().instance_url(instance.id()));
        response = response.map(|body| body.with_delivery(delivery));
        instance_cookie::set(&mut response, instance.id(), max_ttl, request.client.is_secure);
        Ok(response)
    }

    /// Releases an instance and redirects the browser to the front page. Knowing the id suffices.
    pub(in crate::api) async fn end_instance(
        &self,
        id: &str,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let mut response = response::see_other("/");
        let Ok(id) = InstanceId::parse(id) else { return Ok(response) };
        match self.pool.release(&id).await {
            Ok(_) | Err(StoreError::Unknown | StoreError::Refused(_)) => {
                instance_cookie::clear(&mut response, id.template());
                Ok(response)
            }
            Err(error) => {
                let error = ApiError::from_store(error, "RELEASE_ERROR");
                Ok(error_page(&error, id.template(), &request))
            }
        }
    }
}

/// Creates the response to a failed button press: the error as a page.
fn error_page(error: &ApiError, template: &str, request: &ApiRequest<'_>) -> Response<Body> {
    let request_id = request.id.as_str();
    let page = match error {
        ApiError::RateLimited(limited) => pages::rate_limited(limited, request_id),
        ApiError::PoolExhausted(retry_after) => pages::pool_exhausted(template, *retry_after, request_id),
        ApiError::NotFound(_) => pages::template_not_found(request_id),
        _ => pages::internal_error(request_id),
    };
    let mut response = response::html(error.status(), page);
    error.add_headers(response.headers_mut());
    response
}
