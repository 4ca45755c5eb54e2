//! `DELETE /api/v1/demo/{id}`: releases an instance.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::InstanceId;

#[derive(Serialize)]
struct ReleaseResponse<'a> {
    id: &'a str,
    status: &'static str,
    message: &'static str,
}

impl Api {
    pub(in crate::api) async fn release(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        self.check_change(id, &request, "RELEASE_ERROR").await?;
        let released = self.instances.release(id, self.asker(&request)).await;
        released.map_err(|e| ApiError::from_store(e, "RELEASE_ERROR"))?;
        let body = ReleaseResponse {
            id: id.as_str(),
            status: "released",
            message: "Demo instance has been released",
        };
        Ok(response::json(StatusCode::OK, &body))
    }
}
