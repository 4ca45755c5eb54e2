//! `POST /api/v1/demo/acquire`: assigns a ready instance to the client.

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiError, ApiRequest, Body, read_json, response};
use crate::instance::{Instance, TemplateName};
use crate::pool::{AcquireError, Acquired};
use crate::template::Secret;

#[derive(Deserialize)]
struct AcquireBody {
    template: Option<String>,
    /// A proof of work, see [`ProofsOfWork`](crate::api::proof_of_work::ProofsOfWork).
    altcha: Option<String>,
}

#[derive(Serialize)]
struct AcquireResponse<'a> {
    id: &'a str,
    url: String,
    admin_url: String,
    expires_at: String,
    ttl_seconds: u64,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<&'a str>,
}

impl Api {
    pub(in crate::api) async fn acquire(&self, request: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        let body: Option<AcquireBody> = read_json(&request)?;
        let (template, proof) = body.map_or((None, None), |body| (body.template, body.altcha));
        let template = match template {
            Some(name) => {
                TemplateName::new(&name).map_err(|error| ApiError::InvalidRequest(error.to_string()))?
            }
            None => self.claims.templates().default_name().clone(),
        };
        let Acquired { instance, quota, delivery } =
            self.acquire_with_proof(template.as_str(), proof.as_deref(), &request).await?;
        let lease = instance.lease().ok_or(ApiError::Internal("ACQUIRE_ERROR"))?;
        let (url, admin_url) = self.urls(&instance);
        let credentials = self.instances.credentials(&instance);
        let acquired = AcquireResponse {
            id: instance.id().as_str(),
            url,
            admin_url,
            expires_at: self.clock.shown(lease.deadline()).rfc3339(),
            ttl_seconds: lease.deadline().since(lease.assigned_at()).as_secs(),
            token: lease.token().reveal(),
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

    /// Acquires an instance. Where proofs of work are asked for, a request without one gets instances up to the lower
    /// quota.
    ///
    /// # Errors
    /// [`ApiError::ProofRequired`] above the lower quota, [`ApiError::InvalidRequest`] for a proof that is not valid,
    /// and what [`AcquireError`] becomes.
    pub(super) async fn acquire_with_proof(
        &self,
        template: &str,
        proof: Option<&str>,
        request: &ApiRequest<'_>,
    ) -> Result<Acquired, ApiError> {
        let visitor = request.context.client.visitor();
        let asked =
            self.proof_of_work_above.and_then(|above| Some((above, self.claims.proof_of_work_secret()?)));
        let Some((lower_quota, secret)) = asked else {
            return Ok(self.claims.acquire(template, visitor).await?);
        };
        if let Some(proof) = proof {
            let checked = self.proofs_of_work.check(secret, proof, template, &visitor);
            checked.map_err(|error| ApiError::InvalidRequest(error.to_string()))?;
            return Ok(self.claims.acquire(template, visitor).await?);
        }
        match self.claims.acquire_up_to(Some(lower_quota), template, visitor.clone()).await {
            Err(AcquireError::RateLimited(limited)) => {
                let now = self.clock.now();
                Err(match self.proofs_of_work.challenge(secret, template, &visitor, now) {
                    Some(challenge) => ApiError::ProofRequired(limited, Box::new(challenge)),
                    None => ApiError::RateLimited(limited),
                })
            }
            outcome => Ok(outcome?),
        }
    }

    /// Returns an instance's URL, and the URL of its administration pages.
    pub(super) fn urls(&self, instance: &Instance) -> (String, String) {
        let url = self.public_url.instance_url(instance.id());
        let template = self.instances.template_of(instance.id());
        // The URL ends with a slash and the path begins with one.
        let path = template.as_ref().map_or("", |template| &template.admin_path[1..]);
        let admin_url = format!("{url}{path}");
        (url, admin_url)
    }
}
