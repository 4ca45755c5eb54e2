//! From a host's label to a live route.

use std::sync::Arc;

use http::HeaderMap;

use super::Proxy;
use super::headers::RequestSource;
use super::routes::{Route, RouteLookup};
use crate::api::ApiError;
use crate::instance::{EndReason, InstanceId};
use crate::pool::Asker;
use crate::request::ClientAddr;

impl Proxy {
    /// Returns the live route of a host's label. The route table answers for every host that it knows; for another
    /// host the store is asked once, within the budget of the client.
    ///
    /// # Errors
    /// [`ApiError::InstanceEnded`] when the instance has ended, [`ApiError::NotFound`] when no visitor has an instance
    /// with that label, [`ApiError::StoreUnavailable`] when the host is unknown and the store does not answer.
    pub(super) async fn resolve_route(
        &self,
        label: &str,
        headers: &HeaderMap,
        source: RequestSource<'_>,
    ) -> Result<Arc<Route>, ApiError> {
        let found = match self.0.routes.find(label) {
            RouteLookup::Unknown => self.find_in_store(label, self.asker(headers, source)).await?,
            found => found,
        };
        match found {
            // The store expires an instance a moment after its deadline; the visitor's time ends at the deadline.
            RouteLookup::Live(route) if self.0.pool.clock().now() >= route.deadline() => {
                Err(ApiError::InstanceEnded(EndReason::Expired))
            }
            RouteLookup::Live(route) => {
                self.0.pool.record_use(&route);
                Ok(route)
            }
            RouteLookup::Ended(reason) => Err(ApiError::InstanceEnded(reason)),
            RouteLookup::Absent | RouteLookup::Unknown => Err(ApiError::NotFound("instance")),
        }
    }

    /// Asks the store for an instance, within the budget for unknown ids. The pool applies what it learns to the route
    /// table; an instance that no visitor has stays unknown there.
    async fn find_in_store(&self, label: &str, asker: Asker) -> Result<RouteLookup, ApiError> {
        let Ok(id) = InstanceId::parse(label) else { return Ok(RouteLookup::Absent) };
        self.0.pool.get(&id, asker).await.map_err(|e| ApiError::from_store(e, "PROXY_ERROR"))?;
        Ok(self.0.routes.find(label))
    }

    /// Returns who asks for an unknown host. A peer forwards only requests for instances that it knows.
    fn asker(&self, headers: &HeaderMap, source: RequestSource<'_>) -> Asker {
        if source.provenance.is_trusted() {
            return Asker::Trusted;
        }
        let trusted_proxies = &self.0.trusted_proxies;
        Asker::Client(ClientAddr::of(source.peer, source.is_secure, headers, trusted_proxies).address)
    }
}
