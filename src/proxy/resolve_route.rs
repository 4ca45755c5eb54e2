//! From a host's label to a live route.

use std::sync::Arc;

use super::Proxy;
use super::routes::{Route, RouteLookup};
use crate::api::ApiError;
use crate::instance::{EndReason, InstanceId};
use crate::pool::Asker;
use crate::request::RequestContext;

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
        context: &RequestContext<'_>,
    ) -> Result<Arc<Route>, ApiError> {
        let found = match self.0.routes.find(label) {
            RouteLookup::Unknown => self.find_in_store(label, asker(context)).await?,
            found => found,
        };
        match found {
            RouteLookup::Live(route) => self.use_route(&route).map(|()| route),
            RouteLookup::Ended(reason) => Err(ApiError::InstanceEnded(reason)),
            RouteLookup::Absent | RouteLookup::Unknown => Err(ApiError::NotFound("instance")),
        }
    }

    /// Records a request on a live route.
    ///
    /// # Errors
    /// [`ApiError::InstanceEnded`] when the visitor's time is over: the store expires an instance a moment after its
    /// deadline.
    pub(super) fn use_route(&self, route: &Route) -> Result<(), ApiError> {
        if self.0.clock.now() >= route.deadline() {
            return Err(ApiError::InstanceEnded(EndReason::Expired));
        }
        self.0.instances.record_use(route);
        Ok(())
    }

    /// Asks the store for an instance, within the budget for unknown ids. The pool applies what it learns to the route
    /// table; an instance that no visitor has stays unknown there.
    async fn find_in_store(&self, label: &str, asker: Asker) -> Result<RouteLookup, ApiError> {
        let Ok(id) = InstanceId::parse(label) else { return Ok(RouteLookup::Absent) };
        self.0.instances.get(&id, asker).await.map_err(|e| ApiError::from_store(e, "PROXY_ERROR"))?;
        Ok(self.0.routes.find(label))
    }
}

/// Returns who asks for an unknown host. A peer forwards only requests for instances that it knows.
fn asker(context: &RequestContext<'_>) -> Asker {
    if context.provenance.is_trusted() {
        return Asker::Trusted;
    }
    Asker::Client(context.client.address)
}
