//! What the API and the proxy ask of one instance.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::supply::hooks::HookValues;
use super::{Asker, InstanceMemory, Pool};
use crate::instance::{Endpoint, Instance, InstanceId};
use crate::proxy::routes::Route;
use crate::store::{RouteChange, StoreError};
use crate::template::{Secret, Template};

impl Pool {
    /// Extends the lease by `by` from its deadline, up to the template's longest time, and charges its visitor as for one
    /// more instance. Returns the new record.
    ///
    /// # Errors
    /// `Unknown` when no visitor has the instance, its template was never configured here, or `asker` has used up the
    /// budget for unknown ids; `NotExtended` beyond the longest time, or where the visitor has reached a limit;
    /// `Unavailable` when the store does not answer in time.
    pub async fn extend(&self, id: &InstanceId, by: Duration, asker: Asker) -> Result<Instance, StoreError> {
        let template = self.template_of(id).ok_or(StoreError::Unknown)?;
        if !self.may_be_assigned(id, asker).await? {
            return Err(StoreError::Unknown);
        }
        let instance = self.ask(self.store.extend(id, by, template.max_ttl, template.rate_limit)).await?;
        self.record_use_of(id);
        self.publish_route(RouteChange::Set(instance.clone()));
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
        self.template_pools.get(id.template()).map(|template_pool| template_pool.template())
    }

    /// Returns the text with which the visitor logs in, where the template declares one. `None` too when the template
    /// has changed since the instance was made, or when another node made it with a secret of its own.
    pub fn credentials(&self, instance: &Instance) -> Option<Secret> {
        let (id, template) = (instance.id(), self.template_of(instance.id())?);
        let is_known = self.is_clustered || instance.node() == &self.node;
        let text = template.hooks.credentials.as_ref().filter(|_| is_known)?;
        let random_texts = self.random_texts.get()?.of_revision(instance.revision(), &template)?;
        let (url, host) = (self.public_url.instance_url(id), self.public_url.instance_host(id));
        let values = HookValues::new(random_texts, &template.hooks, id, &url, &host);
        Some(Secret::new(values.fill(text)))
    }

    /// Returns the memory of an instance of this node as it was measured last; `None` where it is not measured.
    pub fn memory_of(&self, id: &InstanceId) -> Option<InstanceMemory> {
        self.memory_sample.load().memory_of(id)
    }

    /// Returns the last output of an instance that this node runs.
    pub async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        self.runtime.logs(id).await
    }

    /// Connects to the app of an instance that this node runs. The caller bounds the wait.
    ///
    /// # Errors
    /// The system's error: no process listens there, or the instance is gone.
    pub async fn connect(&self, endpoint: Endpoint) -> std::io::Result<TcpStream> {
        self.runtime.connect(endpoint).await
    }
}
