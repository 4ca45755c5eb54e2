//! The instance's end of a link: its namespace, the routes there, and the name server there.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::dns::{self, ResolvedNames};
use super::dns_responder;
use super::routes::RoutePlan;
use crate::telemetry::task;
use crate::template::Egress;

/// The inside of a network namespace with a link.
#[derive(Debug)]
pub(super) struct InnerEnd {
    /// Empty while the namespace of a reserved link does not exist.
    namespace: OnceLock<Arc<File>>,
    /// The routes in the namespace; `None` if they are unknown.
    routes: Mutex<Option<RoutePlan>>,
    name_server: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl InnerEnd {
    pub(super) fn new(namespace: Arc<File>) -> Self {
        Self { namespace: namespace.into(), ..Self::reserved() }
    }

    /// Returns the inside of a namespace that does not exist yet. What is set up there is nothing until
    /// [`InnerEnd::fill`].
    pub(super) fn reserved() -> Self {
        Self { namespace: OnceLock::new(), routes: Mutex::default(), name_server: Mutex::default() }
    }

    /// Says which namespace it is, once.
    pub(super) fn fill(&self, namespace: Arc<File>) {
        let _ = self.namespace.set(namespace);
    }

    pub(super) fn namespace(&self) -> Option<Arc<File>> {
        self.namespace.get().cloned()
    }

    /// Sets the routes, unless there is no plan. `plan` is called when no other call is in progress, so that the last call
    /// has the last word.
    ///
    /// # Errors
    /// The kernel refuses. Then some routes may be missing, and the next call sets all of them.
    pub(super) async fn set_routes(&self, plan: impl FnOnce() -> Option<RoutePlan>) -> io::Result<()> {
        let mut routes = self.routes.lock().await;
        let (Some(namespace), Some(plan)) = (self.namespace(), plan()) else { return Ok(()) };
        if routes.as_ref() != Some(&plan) {
            *routes = None;
            plan.apply(namespace).await?;
            *routes = Some(plan);
        }
        Ok(())
    }

    /// Runs the name server of an instance with a list of destinations, unless it runs. `is_current` returns whether the
    /// instance is still there; it is called when no other call is in progress.
    ///
    /// # Errors
    /// Its port is in use.
    pub(super) async fn serve_names(
        &self,
        is_current: impl Fn() -> bool,
        egress: &Egress,
        resolved: &Arc<ResolvedNames>,
    ) -> io::Result<()> {
        let mut name_server = self.name_server.lock().await;
        let Some(namespace) = self.namespace() else { return Ok(()) };
        let is_running = name_server.as_ref().is_some_and(|task| !task.is_finished());
        if matches!(egress, Egress::Only(_)) && !is_running && is_current() {
            let socket = dns_responder::listen(namespace).await?;
            let names = dns::names(egress).map(str::to_owned).collect();
            let running = dns_responder::run(socket, names, resolved.clone());
            *name_server = Some(AbortOnDropHandle::new(task::spawn("name server of an instance", running)));
        }
        Ok(())
    }

    /// Stops the name server, and returns when its port is free.
    pub(super) async fn stop_names(&self) {
        let name_server = self.name_server.lock().await.take();
        if let Some(task) = name_server {
            task.abort();
            let _ = task.await;
        }
    }
}
