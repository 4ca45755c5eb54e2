//! `POST /api/v1/demo/{id}/extend`: moves the deadline of a lease.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiError, ApiRequest, Body, read_json, response};
use crate::instance::InstanceId;

#[derive(Deserialize)]
struct ExtendBody {
    minutes: i64,
}

#[derive(Serialize)]
struct ExtendResponse<'a> {
    id: &'a str,
    expires_at: String,
    ttl_remaining: u64,
}

impl Api {
    pub(in crate::api) async fn extend(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let body: Option<ExtendBody> = read_json(&request)?;
        let minutes = body
            .and_then(|body| u64::try_from(body.minutes).ok())
            .filter(|minutes| (1..=60).contains(minutes))
            .ok_or_else(|| ApiError::InvalidRequest("minutes must be an integer from 1 to 60".to_owned()))?;
        self.check_change(id, &request, "EXTEND_ERROR").await?;
        let instance = self
            .instances
            .extend(id, Duration::from_secs(60 * minutes), self.asker(&request))
            .await
            .map_err(|e| ApiError::from_store(e, "EXTEND_ERROR"))?;
        let lease = instance.lease().ok_or(ApiError::Internal("EXTEND_ERROR"))?;
        let extended = ExtendResponse {
            id: id.as_str(),
            expires_at: self.clock.shown(lease.deadline()).rfc3339(),
            ttl_remaining: lease.remaining(self.clock.now()).as_secs(),
        };
        Ok(response::json(StatusCode::OK, &extended))
    }
}
