//! What the API and the proxy ask of one instance.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::claim::delivery::Ledger;
use super::lookup_budget::LookupBudget;
use super::shared_state::SharedState;
use super::supply::hooks::HookValues;
use super::{Asker, InstanceMemory, Supply};
use crate::instance::{Endpoint, Instance, InstanceId};
use crate::proxy::routes::Route;
use crate::store::{RouteChange, StoreError};
use crate::template::{Secret, Template};

/// What the API and the proxy do with one instance that they know by its id or host.
pub struct Instances {
    pub(super) shared: Arc<SharedState>,
    pub(super) supply: Arc<Supply>,
    ledger: Arc<Ledger>,
    /// How often the store may be asked for ids that are unknown here.
    pub(super) lookup_budget: Mutex<LookupBudget>,
}

impl Instances {
    pub(super) fn new(shared: Arc<SharedState>, supply: Arc<Supply>, ledger: Arc<Ledger>) -> Self {
        let lookup_budget = Mutex::new(LookupBudget::new(Instant::now()));
        Self { shared, supply, ledger, lookup_budget }
    }

    /// Releases an instance that a visitor has, for a client who names it. Returns the record as it was. The instance is
    /// unreachable when this returns; its app is stopped in the background by the node that runs it.
    ///
    /// # Errors
    /// `Unknown` when no visitor has the instance any more, or `asker` has used up the budget for unknown ids;
    /// `Unavailable` when the store does not answer in time.
    pub async fn release(&self, id: &InstanceId, asker: Asker) -> Result<Instance, StoreError> {
        if !self.may_be_assigned(id, asker).await? {
            return Err(StoreError::Unknown);
        }
        self.supply.release(id).await
    }

    /// Extends the lease by `by` from its deadline, up to the template's longest time, and charges its visitor as for one
    /// more instance. Returns the new record.
    ///
    /// # Errors
    /// `Unknown` when no visitor has the instance, its template was never configured here, or `asker` has used up the
    /// budget for unknown ids; `NotExtended` beyond the longest time, or where the visitor has reached a limit;
    /// `Unavailable` when the store does not answer in time.
    pub async fn extend(&self, id: &InstanceId, by: Duration, asker: Asker) -> Result<Instance, StoreError> {
        let template = self.shared.template_of(id).ok_or(StoreError::Unknown)?;
        if !self.may_be_assigned(id, asker).await? {
            return Err(StoreError::Unknown);
        }
        let instance = self.shared.store.extend(id, by, template.max_ttl, template.rate_limit).await?;
        self.record_use_of(id);
        self.shared.publish_route(RouteChange::Set(instance.clone()));
        Ok(instance)
    }

    /// Notes that the visitor knows of the instance, which confirms the delivery even if the node that sent the answer
    /// has crashed since. Only the first use of a route has an effect.
    pub fn record_use(&self, route: &Route) {
        if route.mark_used() {
            self.ledger.note_delivered(route.id().clone());
        }
    }

    /// Returns the template of an instance as it was configured last, even if it was removed since.
    pub fn template_of(&self, id: &InstanceId) -> Option<Arc<Template>> {
        self.shared.template_of(id)
    }

    /// Returns the text with which the visitor logs in, where the template declares one. `None` too when the template
    /// has changed since the instance was made, or when another node made it with a secret of its own.
    pub fn credentials(&self, instance: &Instance) -> Option<Secret> {
        let (id, template) = (instance.id(), self.shared.template_of(instance.id())?);
        let is_known = self.shared.is_clustered || instance.node() == &self.shared.node;
        let text = template.hooks.credentials.as_ref().filter(|_| is_known)?;
        let random_texts = self.supply.random_texts.get()?.of_revision(instance.revision(), &template)?;
        let (url, host) = (self.shared.public_url.instance_url(id), self.shared.public_url.instance_host(id));
        let access = self.supply.database_access(&template, id);
        let values = HookValues::new(random_texts, &template.hooks, id, &url, &host, access.as_ref());
        Some(Secret::new(values.fill(text)))
    }

    /// Returns the memory of an instance of this node as it was measured last; `None` where it is not measured.
    pub fn memory_of(&self, id: &InstanceId) -> Option<InstanceMemory> {
        self.supply.memory_sample.load().memory_of(id)
    }

    /// Returns the last output of an instance that this node runs.
    pub async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        self.supply.runtime.logs(id).await
    }

    /// Connects to the app of an instance that this node runs. The caller bounds the wait.
    ///
    /// # Errors
    /// The system's error: no process listens there, or the instance is gone.
    pub async fn connect(&self, endpoint: Endpoint) -> std::io::Result<TcpStream> {
        self.supply.runtime.connect(endpoint).await
    }
}
