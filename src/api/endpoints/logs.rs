//! `GET /api/v1/demo/{id}/logs`: the last output of an instance's app as the app wrote it, whichever node runs it.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::access::InstanceAccess;
use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::InstanceId;

impl Api {
    pub(in crate::api) async fn logs(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        self.check_log_access(id, &request).await?;
        let log = match self.pool.logs(id).await {
            Some(log) => Some(log),
            None => self.logs_from_peer(id, request).await?,
        };
        let log = log.ok_or(ApiError::NotFound("instance"))?;
        // Plain text whatever its content: an app's output must not become a page on the API's host.
        Ok(response::with_body(StatusCode::OK, "text/plain; charset=utf-8", log))
    }

    /// Checks that the caller is the operator, the instance's visitor, or a peer.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the store has no such instance, [`ApiError::Forbidden`] for another caller.
    async fn check_log_access(&self, id: &InstanceId, request: &ApiRequest<'_>) -> Result<(), ApiError> {
        if self.is_trusted_without_token(request) {
            // A node has the output of its instance for a moment longer than the store has the record.
            return Ok(());
        }
        let asker = self.asker(request);
        let found = self.pool.get(id, asker).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        match self.instance_access(&found.ok_or(ApiError::NotFound("instance"))?, request)? {
            InstanceAccess::Full => Ok(()),
            InstanceAccess::StateOnly => Err(ApiError::Forbidden),
        }
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
        let found = self.pool.get(id, asker).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        let Some(instance) = found.filter(|instance| instance.node() != peers.directory.own_id()) else {
            return Ok(None);
        };
        let host = self.pool.public_url().instance_host(id);
        peers.logs(instance.node(), id, &host, self.pool.clock().now()).await.map_err(|error| {
            tracing::warn!(%error, "failed to fetch instance logs from peer");
            ApiError::AppUnreachable
        })
    }
}
