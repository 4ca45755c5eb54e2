//! The implementation of the runtime trait by child processes.

use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::ports::PortPool;
use super::settings::ProcessSettings;
use super::shared::{RunningInstance, SharedState};
use super::supervisor::Supervisor;
use super::takeover::{self, ProcessMarks};
use crate::instance::InstanceId;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::listeners;
use crate::runtime::output_log::OutputLog;
use crate::runtime::{Exit, Runtime, RuntimeError, StartMethod, StartRequest, Started};
use crate::telemetry::task;

/// Runs each instance as child processes of a guardian.
pub struct ProcessRuntime {
    shared: Arc<SharedState>,
}

impl ProcessRuntime {
    /// Takes over the folder of instances, and kills and removes what a crashed server of this node left in it.
    ///
    /// # Errors
    /// The folder cannot be created, belongs to another node or user, or holds files that are not ours; or a process or
    /// a file in it cannot be removed.
    pub async fn open(mut settings: ProcessSettings) -> Result<Self, RuntimeError> {
        let context = || format!("find {}", settings.program.display());
        settings.program = std::path::absolute(&settings.program).context(context)?;
        let (instances_dir, node) = (settings.instances_dir.clone(), settings.node.clone());
        settings.instances_dir = blocking(move || takeover::take_over(&instances_dir, &node)).await?;
        let shared = SharedState {
            ports: Arc::new(PortPool::new(settings.port_range.clone())),
            settings,
            running: Mutex::default(),
            exit_listener: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Drop for ProcessRuntime {
    /// Ends all instances, without waiting for their end.
    fn drop(&mut self) {
        self.shared.running.lock().clear();
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        if let Some(file) = request.files.first() {
            return Err(RuntimeError::Start(format!(
                "the process runtime cannot give an instance files of its own: {}",
                file.path
            )));
        }
        let log = Arc::new(OutputLog::new(self.shared.settings.log_limit));
        let (stop_requests, received_stop_requests) = mpsc::unbounded_channel();
        match self.shared.running.lock().entry(request.id.clone()) {
            Entry::Occupied(_) => return Err(RuntimeError::Start(format!("{} runs already", request.id))),
            Entry::Vacant(place) => place.insert(RunningInstance { stop_requests, log: Arc::clone(&log) }),
        };
        let supervisor =
            Supervisor::new(Arc::clone(&self.shared), request.clone(), log, received_stop_requests);
        let (reply, started) = oneshot::channel();
        // In a task, so that the start is completed or undone even if the caller drops its future.
        task::spawn("supervise an instance", supervisor.run(reply));
        let address =
            started.await.unwrap_or_else(|_| Err(RuntimeError::Start("its supervisor ended".to_owned())))?;
        Ok(Started { endpoint: address.into(), method: StartMethod::Cold })
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let (reply, stopped) = oneshot::channel();
        let sent = self
            .shared
            .running
            .lock()
            .get(id)
            .is_some_and(|running| running.stop_requests.send(reply).is_ok());
        if !sent {
            return Ok(());
        }
        let failed =
            |why: String| RuntimeError::Io { operation: format!("stop {id}"), source: io::Error::other(why) };
        stopped.await.unwrap_or_else(|_| Err("its supervisor ended".to_owned())).map_err(failed)
    }

    async fn listeners(&self, id: &InstanceId) -> Option<Vec<SocketAddr>> {
        let settings = &self.shared.settings;
        let folder = settings.instances_dir.join(id.as_str());
        let marks = ProcessMarks::of_instance(&settings.node, id, &folder);
        blocking(move || listeners::of_processes(&marks.pids())).await
    }

    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.shared.running.lock().keys().cloned().collect())
    }

    async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        let log = Arc::clone(&self.shared.running.lock().get(id)?.log);
        Some(log.bytes())
    }

    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (sender, exits) = mpsc::unbounded_channel();
        *self.shared.exit_listener.lock() = Some(sender);
        exits
    }
}
