//! `GET /api/v1/demo/{id}`: an instance's state.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::access::InstanceAccess;
use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::{InstanceId, State};
use crate::pool::InstanceMemory;
use crate::template::Secret;

#[derive(Serialize)]
struct GetResponse<'a> {
    id: &'a str,
    url: String,
    admin_url: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    assigned_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    ttl_remaining_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<&'a str>,
    /// The last sample; `None` where memory is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<InstanceMemory>,
}

impl Api {
    pub(in crate::api) async fn get_instance(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let asker = self.asker(&request);
        let found = self.instances.get(id, asker).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        let instance = found.ok_or(ApiError::NotFound("instance"))?;
        let may_read_credentials = self.instance_access(&instance, &request)? == InstanceAccess::Full;
        let (url, admin_url) = self.urls(&instance);
        let lease = instance.lease();
        let is_assigned = matches!(instance.state(), State::Assigned { .. });
        let clock = &self.clock;
        let now = clock.now();
        let credentials =
            self.instances.credentials(&instance).filter(|_| is_assigned && may_read_credentials);
        let body = GetResponse {
            id: id.as_str(),
            url,
            admin_url,
            state: instance.state().name(),
            reason: match instance.state() {
                State::Expired { reason, .. } => Some(reason.name()),
                _ => None,
            },
            created_at: clock.shown(instance.created_at()).rfc3339(),
            assigned_at: lease.map(|lease| clock.shown(lease.assigned_at()).rfc3339()),
            expires_at: lease.map(|lease| clock.shown(lease.deadline()).rfc3339()),
            ttl_remaining_seconds: lease
                .filter(|_| is_assigned)
                .map_or(0, |lease| lease.remaining(now).as_secs()),
            credentials: credentials.as_ref().map(Secret::reveal),
            memory: self.instances.memory_of(id),
        };
        Ok(response::json(StatusCode::OK, &body))
    }
}
