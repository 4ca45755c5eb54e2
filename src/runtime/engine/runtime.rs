//! The implementation of the trait.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::inner::Inner;
use super::settings::{EngineSettings, Reach};
use super::{events, takeover};
use crate::instance::{Endpoint, InstanceId};
use crate::runtime::blocking::blocking;
use crate::runtime::{
    ExecCommand, ExecOutput, Exit, ImageFacts, MemoryReport, Runtime, RuntimeError, StartRequest, Started,
    TransferProgress, listeners,
};
use crate::telemetry::task;
use crate::template::{App, HealthCheck};

/// Runs instances as containers of Docker or Podman.
pub struct EngineRuntime {
    inner: Arc<Inner>,
    /// Cancelled when the runtime does nothing by itself any more: it was dropped or handed over.
    closed: CancellationToken,
}

impl Drop for EngineRuntime {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl EngineRuntime {
    /// Connects to the engine, takes over the containers of this node that still run, and removes everything else that
    /// a crashed server of this node left.
    ///
    /// # Errors
    /// No engine answers, it is too old, or something that was left cannot be removed.
    pub async fn open(settings: EngineSettings) -> Result<Self, RuntimeError> {
        let connection = Connection::open(settings.kind, &settings.sockets).await?;
        let (engine, socket) = (settings.kind.name(), connection.socket.display().to_string());
        let inner = Arc::new(Inner::new(connection, settings)?);
        let is_published = inner.reach == Reach::Published;
        tracing::info!(engine, socket, is_published, "engine connected");
        takeover::take_over(&inner).await?;
        let closed = CancellationToken::new();
        let watch = closed.clone().run_until_cancelled_owned(events::follow(Arc::downgrade(&inner)));
        task::spawn("engine exits", async move { watch.await.unwrap_or_default() });
        Ok(Self { inner, closed })
    }
}

/// Runs an operation in a task, so that it is completed or undone even if the caller drops its future.
async fn run_detached<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
) -> Result<T, RuntimeError> {
    let (reply, outcome) = oneshot::channel();
    task::spawn(name, async move {
        let _ = reply.send(work.await);
    });
    outcome.await.unwrap_or_else(|_| Err(RuntimeError::Start(format!("{name} ended without a result"))))
}

#[async_trait]
impl Runtime for EngineRuntime {
    fn name(&self) -> &'static str {
        self.inner.kind.name()
    }

    fn outlives_server(&self) -> bool {
        true
    }

    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        let instance = self.inner.instances.insert(&request.id);
        let instance = instance.ok_or_else(|| RuntimeError::Start(format!("{} runs already", request.id)))?;
        let (inner, request) = (self.inner.clone(), request.clone());
        run_detached("start a container", async move {
            let lock = instance.operation_lock.lock().await;
            // A stop that held the lock first has removed everything already.
            if instance.is_ending() {
                return Err(RuntimeError::Start(format!("{} was stopped before it started", request.id)));
            }
            let outcome = inner.start(&request, &instance).await;
            if outcome.is_err() {
                inner.give_up(&request.id, &instance).await;
            }
            drop(lock);
            outcome
        })
        .await
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        self.inner.instances.forget_output(id);
        let Some(instance) = self.inner.instances.get(id) else { return Ok(()) };
        let (inner, id) = (self.inner.clone(), id.clone());
        run_detached("stop a container", async move {
            instance.begin_end();
            let _lock = instance.operation_lock.lock().await;
            inner.remove_instance(&id, &instance).await
        })
        .await
    }

    async fn connect(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        self.inner.namespaces.connect_to(endpoint).await
    }

    fn health_check(&self, app: &App) -> Option<HealthCheck> {
        self.inner.images.cached(app.image.as_ref()?)?.config.health_check()
    }

    fn image_facts(&self, app: &App) -> Option<ImageFacts> {
        Some(self.inner.images.cached(app.image.as_ref()?)?.config.facts())
    }

    async fn listeners(&self, id: &InstanceId) -> Option<Vec<SocketAddr>> {
        let pid = self.inner.instances.get(id)?.pid.load(Ordering::Acquire);
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
        blocking(move || listeners::of_namespace(&[pid])).await
    }

    async fn fetch(&self, app: &App) -> Result<(), RuntimeError> {
        let (inner, app) = (self.inner.clone(), app.clone());
        run_detached("fetch an image", async move { inner.fetch_image(&app).await.map(drop) }).await
    }

    fn fetch_progress(&self, app: &App) -> Option<TransferProgress> {
        self.inner.images.transfer_of(app.image.as_ref()?)
    }

    async fn exec(&self, request: &StartRequest, command: ExecCommand) -> Result<ExecOutput, RuntimeError> {
        let instance = self.inner.instances.get(&request.id).filter(|instance| !instance.is_ending());
        // A command does not hold the operation lock: a stop need not wait for it, and ends it.
        let instance = instance.ok_or_else(|| RuntimeError::Start(format!("{} does not run", request.id)))?;
        let (inner, request) = (self.inner.clone(), request.clone());
        run_detached("run a command", async move { inner.exec(&request, &instance, command).await }).await
    }

    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.inner.instances.ids())
    }

    async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        if let Some(output) = self.inner.instances.last_output(id) {
            return Some(output);
        }
        let instance = self.inner.instances.get(id)?;
        Some(self.inner.output(&instance).await)
    }

    async fn memory(&self) -> Option<MemoryReport> {
        self.inner.memory().await
    }

    async fn hand_over(&self) {
        self.closed.cancel();
        self.inner.instances.forget_all();
    }

    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        self.inner.instances.subscribe_exits()
    }
}
