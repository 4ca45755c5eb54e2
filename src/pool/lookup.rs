//! What a client gets to know of an instance by its id, and when the store is asked for that.
//!
//! The route table knows every assigned and recently ended instance of all nodes. An id that it does not know is one that
//! another node assigned some milliseconds ago, one that no visitor has yet, or one that a client invented. Only the
//! store can distinguish these, so it is asked within a budget that no flood of ids can widen ([`LookupBudget`]). The API
//! and the proxy ask through this file alone, and share the negative answers, which the route table keeps for some
//! seconds.
//!
//! [`LookupBudget`]: super::lookup_budget::LookupBudget

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::instances::Instances;
use super::lookup_budget::Asker;
use crate::instance::{Instance, InstanceId, State};
use crate::proxy::routes::{Route, RouteLookup};
use crate::store::{RouteChange, StoreError};

/// How long an id for which the store is not asked may take to arrive in the store's stream of events. The stream brings
/// each change of other nodes within some milliseconds, unless a machine is very busy.
const MAX_STREAM_DELAY: Duration = Duration::from_millis(250);
/// Time between two looks at the route table meanwhile.
const STREAM_LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// What is known of an instance.
#[derive(Debug)]
pub enum InstanceStatus {
    /// A visitor has it, until the route's deadline.
    Assigned(Arc<Route>),
    /// No visitor has it yet; the name of its state.
    Unassigned(&'static str),
    /// It has ended.
    Expired,
    /// There is none.
    Gone,
}

impl Instances {
    /// Returns the instance's record; `None` when there is none, or when `asker` has used up the budget for unknown ids.
    /// The caller knows the instance's name, so this counts as its use.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer in time.
    pub async fn get(&self, id: &InstanceId, asker: Asker) -> Result<Option<Instance>, StoreError> {
        if !self.may_exist(id, asker).await? {
            return Ok(None);
        }
        self.record_use_of(id);
        let found = self.shared.store.get(id).await?;
        if matches!(self.shared.routes.find(id.as_str()), RouteLookup::Unknown) {
            match &found {
                Some(record) if record.lease().is_some() => {
                    self.supply.apply_route_change(&RouteChange::Set(record.clone()));
                }
                // It may be assigned at any moment, so it is not marked as absent.
                Some(_) => {}
                None => {
                    self.shared.routes.mark_absent(id.as_str());
                }
            }
        }
        Ok(found)
    }

    /// Returns what is known of an instance: from memory where the route table knows it, else from the store as
    /// [`Instances::get`] does.
    ///
    /// # Errors
    /// `Unavailable` when the table does not know the id and the store does not answer in time.
    pub async fn status(&self, id: &InstanceId, asker: Asker) -> Result<InstanceStatus, StoreError> {
        if let Some(status) = self.status_in_memory(id) {
            return Ok(status);
        }
        let Some(instance) = self.get(id, asker).await? else { return Ok(InstanceStatus::Gone) };
        Ok(match instance.state() {
            State::Warming | State::Ready { .. } => InstanceStatus::Unassigned(instance.state().name()),
            State::Expired { .. } => InstanceStatus::Expired,
            // The table has its route now, unless it ended meanwhile.
            State::Assigned { .. } => self.status_in_memory(id).unwrap_or(InstanceStatus::Gone),
        })
    }

    fn status_in_memory(&self, id: &InstanceId) -> Option<InstanceStatus> {
        match self.shared.routes.find(id.as_str()) {
            RouteLookup::Live(route) if self.shared.clock.now() < route.deadline() => {
                self.record_use(&route);
                Some(InstanceStatus::Assigned(route))
            }
            // The store expires an instance a moment after its deadline; the visitor's time ends at the deadline.
            RouteLookup::Live(_) | RouteLookup::Ended(_) => Some(InstanceStatus::Expired),
            RouteLookup::Absent => Some(InstanceStatus::Gone),
            RouteLookup::Unknown => None,
        }
    }

    /// Returns whether the store is to be asked for an instance: the route table knows it, or may lack it and the
    /// budget of `asker` allows the query.
    ///
    /// # Errors
    /// `Unavailable` when the budget is used up and the route table has not been filled yet: the instance may exist.
    pub(super) async fn may_exist(&self, id: &InstanceId, asker: Asker) -> Result<bool, StoreError> {
        let is_known = || match self.shared.routes.find(id.as_str()) {
            RouteLookup::Live(_) | RouteLookup::Ended(_) => Some(true),
            RouteLookup::Absent => Some(false),
            RouteLookup::Unknown => None,
        };
        if let Some(is_known) = is_known() {
            return Ok(is_known);
        }
        let is_filled = self.shared.routes.is_filled();
        if is_filled && !self.is_template_known(id.template()) {
            return Ok(false);
        }
        let is_admitted = match asker {
            Asker::Trusted => true,
            Asker::Client(address) => self.lookup_budget.lock().charge(address, Instant::now()),
        };
        if is_admitted {
            return Ok(true);
        }
        if !is_filled {
            return Err(StoreError::Unavailable("too many queries for unknown instances".to_owned()));
        }
        // Clients behind one address share a budget. The stream brings what another node assigned just now.
        let deadline = Instant::now() + MAX_STREAM_DELAY;
        while self.shared.is_clustered && is_known().is_none() && Instant::now() < deadline {
            tokio::time::sleep(STREAM_LOOK_INTERVAL).await;
        }
        Ok(is_known().unwrap_or(false))
    }

    /// Returns whether the store is to be asked for a step that only an assigned instance allows: as
    /// [`Instances::may_exist`], but an instance that has ended never becomes assigned again.
    ///
    /// # Errors
    /// See [`Instances::may_exist`].
    pub(super) async fn may_be_assigned(&self, id: &InstanceId, asker: Asker) -> Result<bool, StoreError> {
        let has_ended = matches!(self.shared.routes.find(id.as_str()), RouteLookup::Ended(_));
        Ok(!has_ended && self.may_exist(id, asker).await?)
    }

    /// Returns whether this node was ever configured with the template, or a living peer is.
    fn is_template_known(&self, name: &str) -> bool {
        self.shared.template_pools.get(name).is_some() || self.shared.membership.has_peer_with_template(name)
    }

    pub(super) fn record_use_of(&self, id: &InstanceId) {
        if let RouteLookup::Live(route) = self.shared.routes.find(id.as_str()) {
            self.record_use(&route);
        }
    }
}
