//! `GET /api/v1/demo/{id}/logs`: the last output of an instance's app, as it wrote it, whichever server runs it.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::InstanceId;

impl Api {
    pub(crate) async fn logs(
        &self,
        id: &InstanceId,
        asked: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let log = match self.pool.logs(id).await {
            Some(log) => Some(log),
            None => self.logs_elsewhere(id, asked).await?,
        };
        let log = log.ok_or(ApiError::NotFound("instance"))?;
        // Plain text whatever it holds: an app's output must not become a page on the API's host.
        Ok(response::with(StatusCode::OK, "text/plain; charset=utf-8", log))
    }

    async fn logs_elsewhere(
        &self,
        id: &InstanceId,
        asked: ApiRequest<'_>,
    ) -> Result<Option<Bytes>, ApiError> {
        let Some(others) = self.others.as_ref().filter(|_| asked.may_be_passed_on()) else { return Ok(None) };
        let known = self.pool.get(id).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        let Some(instance) = known.filter(|instance| instance.node() != others.directory.own()) else {
            return Ok(None);
        };
        let host = self.pool.address().instance_host(id);
        others.logs(instance.node(), id, &host, self.pool.clock().now()).await.map_err(|error| {
            tracing::warn!(%error, "another server was asked in vain");
            ApiError::Unreachable
        })
    }
}
