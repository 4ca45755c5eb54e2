//! `POST /try/{template}` and `POST /end/{id}`: the buttons of the front page.
//!
//! The buttons are forms that post: no prefetch and no crawler acquires an instance, and they work without JavaScript.

use std::time::Duration;

use http::Response;

use super::instance_cookie;
use crate::api::access::has_token;
use crate::api::request::query_parameter;
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
        // The form of the page that asks for a proof has it in this field.
        let fields = std::str::from_utf8(&request.body).unwrap_or("");
        let proof = query_parameter(fields, "altcha").and_then(|proof| String::from_utf8(proof).ok());
        let acquired = self.acquire_with_proof(template, proof.as_deref(), &request).await;
        let Acquired { instance, delivery, .. } = match acquired {
            Ok(acquired) => acquired,
            Err(error) => return Ok(error_page(&error, template, &request)),
        };
        // If the template was removed a moment ago, the lease cannot be extended: its own TTL is the longest.
        let granted = instance.lease().map_or(Duration::ZERO, |l| l.deadline().since(l.assigned_at()));
        let max_ttl = self.claims.templates().get(template).map_or(granted, |template| template.max_ttl);
        let mut response = response::see_other(&self.public_url.instance_url(instance.id()));
        response = response.map(|body| body.with_delivery(delivery));
        if let Some(lease) = instance.lease() {
            let is_secure = request.context.client.is_secure;
            instance_cookie::set(&mut response, instance.id(), lease.token(), max_ttl, is_secure);
        }
        Ok(response)
    }

    /// Releases an instance and redirects the browser to the front page. The request needs the cookie with the
    /// instance's token, unless the operator sent it; without it the instance stays, and the front page shows what the
    /// visitor has.
    pub(in crate::api) async fn end_instance(
        &self,
        id: &str,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let mut response = response::see_other("/");
        let Ok(id) = InstanceId::parse(id) else { return Ok(response) };
        match self.may_end(&id, &request).await {
            Ok(true) => {}
            Ok(false) => return Ok(response),
            Err(error) => return Ok(error_page(&error, id.template(), &request)),
        }
        match self.instances.release(&id, self.asker(&request)).await {
            Ok(_) | Err(StoreError::Unknown | StoreError::Refused(_)) => {
                instance_cookie::clear(&mut response, id.template(), request.context.client.is_secure);
                Ok(response)
            }
            Err(error) => {
                let error = ApiError::from_store(error, "RELEASE_ERROR");
                Ok(error_page(&error, id.template(), &request))
            }
        }
    }

    /// Returns whether the caller is the instance's visitor, by the cookie, or the operator.
    async fn may_end(&self, id: &InstanceId, request: &ApiRequest<'_>) -> Result<bool, ApiError> {
        if self.is_trusted_without_token(request) {
            return Ok(true);
        }
        let mut cookies = instance_cookie::read(&request.head.headers, request.context.client.is_secure);
        let Some(claimed) = cookies.find(|claimed| claimed.id == *id) else { return Ok(false) };
        let found = self
            .instances
            .get(id, self.asker(request))
            .await
            .map_err(|e| ApiError::from_store(e, "RELEASE_ERROR"))?;
        // A record that is gone is no obstacle: the cookie is then cleared.
        Ok(found.is_none_or(|instance| has_token(&instance, claimed.token)))
    }
}

/// Creates the response to a failed button press: the error as a page.
fn error_page(error: &ApiError, template: &str, request: &ApiRequest<'_>) -> Response<Body> {
    let request_id = request.context.id.as_str();
    let page = match error {
        ApiError::RateLimited(limited) => pages::rate_limited(limited, request_id),
        ApiError::ProofRequired(_, challenge) => pages::proof_required(template, challenge, request_id),
        ApiError::InvalidRequest(_) => pages::invalid_proof(template, request_id),
        ApiError::PoolExhausted(retry_after) => pages::pool_exhausted(template, *retry_after, request_id),
        ApiError::NotFound(_) => pages::template_not_found(request_id),
        _ => pages::internal_error(request_id),
    };
    let mut response = response::html(error.status(), page);
    error.add_headers(response.headers_mut());
    response
}
