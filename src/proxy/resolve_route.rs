//! From a host label to a live route.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::routes::{Found, Route};
use super::target::{MARGIN, Target};
use super::{Proxy, wants_events};
use crate::api::ApiError;
use crate::instance::{EndReason, InstanceId, State};
use crate::store::RouteChange;

impl Proxy {
    /// The live route of a label. The table answers for every host that it knows; for another the store is asked
    /// once.
    pub(super) async fn find(&self, label: &str) -> Result<Arc<Route>, ApiError> {
        let found = match self.0.routes.find(label) {
            Found::Unknown => self.ask_the_store(label).await?,
            found => found,
        };
        match found {
            // The sweep comes a moment after the deadline; the visitor's time is over at the deadline.
            Found::Live(route) if self.0.pool.clock().now() >= route.deadline() => {
                Err(ApiError::Ended(EndReason::Expired))
            }
            Found::Live(route) => {
                self.0.pool.used(&route);
                Ok(route)
            }
            Found::Ended(ending) => Err(ApiError::Ended(ending)),
            Found::Absent | Found::Unknown => Err(ApiError::NotFound("instance")),
        }
    }

    async fn ask_the_store(&self, label: &str) -> Result<Found, ApiError> {
        let Ok(id) = InstanceId::parse(label) else { return Ok(Found::Absent) };
        let found = self.0.pool.get(&id).await.map_err(|e| ApiError::from_store(e, "PROXY_ERROR"))?;
        match found {
            Some(instance) if matches!(instance.life(), State::Assigned { .. } | State::Expired { .. }) => {
                self.0.pool.apply_change(&RouteChange::Set(instance));
            }
            // One that is not handed out yet is nobody's business, but it may be handed out any moment.
            Some(_) => return Ok(Found::Absent),
            None => {
                self.0.routes.mark_absent(label);
            }
        }
        Ok(self.0.routes.find(label))
    }

    /// How long the app of a route may be silent; `None` for ever.
    pub(super) fn silence(&self, route: &Route, way: &Target, headers: &HeaderMap) -> Option<Duration> {
        if wants_events(headers) {
            return None;
        }
        let silence = self.0.pool.template_of(route.id()).map(|template| template.silence)?;
        Some(match way {
            Target::Here => silence,
            // Its own server tells of it first.
            Target::Node { .. } => silence + MARGIN,
        })
    }
}
