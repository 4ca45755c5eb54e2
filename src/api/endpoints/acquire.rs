//! `POST /api/v1/demo/acquire`: assigns a ready instance to the client.

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiError, ApiRequest, Body, read_json, response};
use crate::instance::{Instance, TemplateName};
use crate::pool::Acquired;
use crate::template::Secret;

#[derive(Deserialize)]
struct AcquireBody {
    template: Option<String>,
}

#[derive(Serialize)]
struct AcquireResponse<'a> {
    id: &'a str,
    url: String,
    admin_url: String,
    expires_at: String,
    ttl_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<&'a str>,
}

impl Api {
    pub(in crate::api) async fn acquire(&self, request: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        let body: Option<AcquireBody> = read_json(&request)?;
        let template = match body.and_then(|body| body.template) {
            Some(name) => {
                TemplateName::new(&name).map_err(|error| ApiError::InvalidRequest(error.to_string()))?
            }
            None => self.pool.templates().default_name().clone(),
        };
        let visitor = request.client.visitor();
        let Acquired { instance, quota, delivery } = self.pool.acquire(template.as_str(), visitor).await?;
        let lease = instance.lease().ok_or(ApiError::Internal("ACQUIRE_ERROR"))?;
        let (url, admin_url) = self.urls(&instance);
        let credentials = self.pool.credentials(&instance);
        let acquired = AcquireResponse {
            id: instance.id().as_str(),
            url,
            admin_url,
            expires_at: lease.deadline().rfc3339(),
            ttl_seconds: lease.deadline().since(lease.assigned_at()).as_secs(),
            credentials: credentials.as_ref().map(Secret::reveal),
        };
        let mut response = response::json(StatusCode::OK, &acquired).map(|body| body.with_delivery(delivery));
        if let Some(quota) = quota {
            response::add_rate_limit_headers(
                response.headers_mut(),
                quota.limit,
                quota.remaining,
                quota.reset.as_secs(),
            );
        }
        Ok(response)
    }

    /// Returns an instance's URL, and the URL of its administration pages.
    pub(super) fn urls(&self, instance: &Instance) -> (String, String) {
        let url = self.pool.public_url().instance_url(instance.id());
        let template = self.pool.template_of(instance.id());
        // The URL ends with a slash and the path begins with one.
        let path = template.as_ref().map_or("", |template| &template.admin_path[1..]);
        let admin_url = format!("{url}{path}");
        (url, admin_url)
    }
}
