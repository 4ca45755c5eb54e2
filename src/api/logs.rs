//! `GET /api/v1/demo/{id}/logs`: the last output of an instance's app, as it wrote it.

use http::{Response, StatusCode};

use super::{Api, ApiError, Body, answer};
use crate::instance::InstanceId;

impl Api {
    pub(super) async fn logs(&self, id: &InstanceId) -> Result<Response<Body>, ApiError> {
        let log = self.pool.logs(id).await.ok_or(ApiError::NotFound("instance"))?;
        // Plain text whatever it holds: an app's output must not become a page on the API's host.
        Ok(answer::with(StatusCode::OK, "text/plain; charset=utf-8", log))
    }
}
