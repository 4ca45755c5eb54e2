//! The process runtime: an instance is a child process. For trusted apps, since nothing but the rights of the
//! server's user keeps an app from the host.
//!
//! Between the server and each instance stands a [`guardian`], the server's own program in another role, and the
//! app starts as a [`launcher`], which is a third. Whoever is killed, the rest of the instance ends:
//!
//! | what dies | what ends the rest |
//! |---|---|
//! | the app | its guardian, which adopts and kills all that the app started, and removes the folder |
//! | the server | each guardian, whose pipe from the server ends |
//! | a guardian | the app dies with it (`PR_SET_PDEATHSIG`), the server finds the others by their [`leftovers`] |
//! | server and guardian | the app dies with the guardian, the next server finds the others |
//!
//! **Environment of an app.** From the server's: `PATH`, `LANG` and `TZ`, nothing else. `HOME` is the working
//! directory and `TMPDIR` a folder beside it, both removed with the instance. Then the template's own, which may
//! replace those. Then what is promised and cannot be replaced: `HOST=127.0.0.1`, `PORT`, `INSTANCE_ID`,
//! `INSTANCE_URL`, `INSTANCE_HOST`, and the label `TRY_IT_NOW_NODE`.
//!
//! **Stopping** kills at once, with no grace: an instance is thrown away, nothing in it is worth saving.

mod descendants;
mod folder;
mod guardian;
mod launcher;
mod ports;
mod processes;
mod protocol;
mod supervisor;
mod takeover;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::ports::Ports;
use super::blocking::{IoContext, blocking};
use super::log::Log;
use super::{Exit, Runtime, RuntimeError, StartMethod, StartRequest, Started};
use crate::instance::{InstanceId, NodeId};
use crate::telemetry::task;
use supervisor::{StopReply, Supervisor};

/// Output that is kept of each instance, in bytes, unless one wants otherwise.
pub const LOG_LIMIT: usize = 256 * 1024;

/// What a process runtime needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program of this server, which calls [`internal_command`] before all else. `/proc/self/exe` does.
    pub guardian: PathBuf,
    /// The node's folder for instances. It is made if only its parent exists; nobody else may use it, which the
    /// caller ensures by a lock.
    pub work: PathBuf,
    /// Who we are.
    pub node: NodeId,
    /// Ports for the apps. Others may use some of them, another server too.
    pub ports: RangeInclusive<u16>,
    /// Bytes of output kept of each instance.
    pub log_limit: usize,
}

/// Runs instances as child processes. See the module.
pub struct ProcessRuntime {
    shared: Arc<Shared>,
}

/// What the runtime and the keepers of its instances have in common.
struct Shared {
    /// With absolute paths.
    settings: Settings,
    ports: Arc<Ports>,
    running: Mutex<HashMap<InstanceId, Running>>,
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

/// An instance from the call of `start` until nothing of it is left.
struct Running {
    /// To its keeper: stop it, and answer here when that is done.
    stops: mpsc::UnboundedSender<oneshot::Sender<StopReply>>,
    log: Arc<Log>,
}

/// Runs what this program does in a role other than the server's, when the arguments (the program's name first)
/// ask for one. It has to be the first call in `main`, before there is any other thread.
pub fn internal_command(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    match args.next()?.to_str()? {
        guardian::NAME => Some(guardian::run()),
        launcher::NAME => Some(launcher::run(args)),
        _ => None,
    }
}

impl ProcessRuntime {
    /// Takes the work folder over, and ends and removes whatever a crashed server of this node left in it.
    ///
    /// # Errors
    /// A work folder that cannot be made, belongs to another node or user, or holds files that are not ours;
    /// leftovers that resist.
    pub async fn open(mut settings: Settings) -> Result<Self, RuntimeError> {
        let doing = || format!("find {}", settings.guardian.display());
        settings.guardian = std::path::absolute(&settings.guardian).doing(doing)?;
        let (work, node) = (settings.work.clone(), settings.node.clone());
        settings.work = blocking(move || takeover::take_over(&work, &node)).await?;
        let shared = Shared {
            ports: Arc::new(Ports::new(settings.ports.clone())),
            settings,
            running: Mutex::default(),
            listener: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Drop for ProcessRuntime {
    /// Ends all instances, without waiting for that.
    fn drop(&mut self) {
        self.shared.running.lock().clear();
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn start(&self, order: &StartRequest) -> Result<Started, RuntimeError> {
        if let Some(file) = order.files.first() {
            return Err(RuntimeError::Start(format!("{}: it would be a file of this host", file.path)));
        }
        let log = Arc::new(Log::new(self.shared.settings.log_limit));
        let (stops, orders_to_stop) = mpsc::unbounded_channel();
        match self.shared.running.lock().entry(order.id.clone()) {
            Entry::Occupied(_) => return Err(RuntimeError::Start(format!("{} runs already", order.id))),
            Entry::Vacant(place) => place.insert(Running { stops, log: Arc::clone(&log) }),
        };
        let keeper = Supervisor::new(Arc::clone(&self.shared), order.clone(), log, orders_to_stop);
        let (reply, started) = oneshot::channel();
        // A task, so that a caller who loses patience leaves nothing half done.
        task::spawn("keep an instance", keeper.keep(reply));
        let address =
            started.await.unwrap_or_else(|_| Err(RuntimeError::Start("its keeper ended".to_owned())))?;
        Ok(Started { endpoint: address.into(), how: StartMethod::Cold })
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let (reply, stopped) = oneshot::channel();
        let sent =
            self.shared.running.lock().get(id).is_some_and(|running| running.stops.send(reply).is_ok());
        if !sent {
            return Ok(());
        }
        let failed =
            |why: String| RuntimeError::Io { doing: format!("stop {id}"), source: io::Error::other(why) };
        stopped.await.unwrap_or_else(|_| Err("its keeper ended".to_owned())).map_err(failed)
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
        *self.shared.listener.lock() = Some(sender);
        exits
    }
}
