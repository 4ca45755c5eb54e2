//! `GET /api/v1/demo/{id}/logs`: the last output of an instance's app as the app wrote it, whichever node runs it.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::InstanceId;

impl Api {
    pub(in crate::api) async fn logs(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        // A node has the output of its instance for a moment longer than the store has the record, for those who need no
        // token.
        self.check_token(id, &request, |_| true, "GET_ERROR").await?;
        let log = match self.instances.logs(id).await {
            Some(log) => Some(log),
            None => self.logs_from_peer(id, request).await?,
        };
        let log = log.ok_or(ApiError::NotFound("instance"))?;
        // Plain text whatever its content: an app's output must not become a page on the API's host.
        Ok(response::with_body(StatusCode::OK, "text/plain; charset=utf-8", log))
    }

    async fn logs_from_peer(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Option<Bytes>, ApiError> {
        let Some(peers) = self.peers.as_ref().filter(|_| request.may_be_forwarded()) else {
            return Ok(None);
        };
        let asker = self.asker(&request);
        let found = self.instances.get(id, asker).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        let Some(instance) = found.filter(|instance| instance.node() != peers.directory.own_id()) else {
            return Ok(None);
        };
        let host = self.public_url.instance_host(id);
        peers.logs(instance.node(), id, &host, self.clock.now()).await.map_err(|error| {
            tracing::warn!(%error, "failed to fetch instance logs from peer");
            ApiError::AppUnreachable
        })
    }
}
