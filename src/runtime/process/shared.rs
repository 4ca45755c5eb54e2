//! State that the process runtime shares with the supervisors of its instances.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::ports::PortPool;
use super::settings::ProcessSettings;
use crate::instance::InstanceId;
use crate::runtime::Exit;
use crate::runtime::output_log::OutputLog;

/// The outcome of a stop; the error is a sentence.
pub(super) type StopReply = Result<(), String>;

/// State that the runtime and the supervisors of its instances share.
pub(super) struct SharedState {
    /// Settings with absolute paths.
    pub(super) settings: ProcessSettings,
    pub(super) ports: Arc<PortPool>,
    /// All instances, from the call of `start` until no resource of them remains.
    pub(super) running: Mutex<HashMap<InstanceId, RunningInstance>>,
    pub(super) exit_listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

/// The runtime's access to the supervisor of one instance.
pub(super) struct RunningInstance {
    /// Requests to stop; the supervisor sends the outcome through the inner sender.
    pub(super) stop_requests: mpsc::UnboundedSender<oneshot::Sender<StopReply>>,
    pub(super) log: Arc<OutputLog>,
}
