//! From a host's label to a live route.

use std::sync::Arc;

use super::Proxy;
use super::routes::{Route, RouteLookup};
use crate::api::ApiError;
use crate::instance::{EndReason, InstanceId, State};
use crate::store::RouteChange;

impl Proxy {
    /// Returns the live route of a host's label. The route table answers for every host that it knows; for another
    /// host the store is asked once.
    ///
    /// # Errors
    /// [`ApiError::InstanceEnded`] when the instance has ended, [`ApiError::NotFound`] when no visitor has an instance
    /// with that label, [`ApiError::StoreUnavailable`] when the host is unknown and the store does not answer.
    pub(super) async fn resolve_route(&self, label: &str) -> Result<Arc<Route>, ApiError> {
        let found = match self.0.routes.find(label) {
            RouteLookup::Unknown => self.find_in_store(label).await?,
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

    /// Asks the store for an instance, and applies its record to the route table.
    async fn find_in_store(&self, label: &str) -> Result<RouteLookup, ApiError> {
        let Ok(id) = InstanceId::parse(label) else { return Ok(RouteLookup::Absent) };
        let found = self.0.pool.get(&id).await.map_err(|e| ApiError::from_store(e, "PROXY_ERROR"))?;
        match found {
            Some(instance) if matches!(instance.state(), State::Assigned { .. } | State::Expired { .. }) => {
                self.0.pool.apply_route_change(&RouteChange::Set(instance));
            }
            // A ready or warming instance has no visitor. It may be assigned at any moment, so it is not marked as
            // absent.
            Some(_) => return Ok(RouteLookup::Absent),
            None => {
                self.0.routes.mark_absent(label);
            }
        }
        Ok(self.0.routes.find(label))
    }
}
