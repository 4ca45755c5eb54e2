//! What runs.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use crate::instance::InstanceId;
use crate::runtime::Exit;
use crate::runtime::containerd::checkpoint::catalog::Key;
use crate::runtime::containerd::checkpoint::sharing::Watch;
use crate::runtime::containerd::network::egress::EgressLink;
use crate::runtime::log::Log;
use crate::telemetry::task;

/// An instance from the call of `start` until nothing of it is left.
pub(crate) struct Running {
    /// Whose turn it is to do something to it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    pub(crate) log: Arc<Log>,
    /// Its network namespace; 0 before it has one.
    pub(crate) namespace: AtomicU32,
    /// Its way out of there, if its template wants one.
    pub(crate) outlet: Mutex<Option<EgressLink>>,
    /// Whether its end is our own doing.
    leaving: AtomicBool,
    /// Done when its output is of no more interest.
    pub(crate) gone: CancellationToken,
    /// The checkpoint that it was restored from.
    pub(crate) from: Mutex<Option<Key>>,
    /// What it writes to; `None` before it has one, or when a server before this one started it.
    pub(crate) disk: Mutex<Option<Arc<Disk>>>,
    /// Who watches what it does with its memory, or why nobody can; `None` where it is not to be frozen.
    pub(crate) watch: Mutex<Option<io::Result<Watch>>>,
}

impl Running {
    /// From now on its end is no news.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether its end is our own doing.
    pub(crate) fn leaves(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Keeps the end of what it writes.
    pub(crate) fn keep_output(&self, pipe: Receiver) {
        let (log, gone) = (self.log.clone(), self.gone.clone());
        task::spawn("an instance's output", async move {
            tokio::select! {
                () = log.fill_from(pipe) => {}
                () = gone.cancelled() => {}
            }
        });
    }
}

/// All instances of this runtime.
#[derive(Default)]
pub(crate) struct Instances {
    running: Mutex<HashMap<InstanceId, Arc<Running>>>,
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

impl Instances {
    /// Takes the place of an instance; `None` when it is taken.
    pub(crate) fn enter(&self, id: &InstanceId, log_limit: usize) -> Option<Arc<Running>> {
        let mut running = self.running.lock();
        if running.contains_key(id) {
            return None;
        }
        let instance = Arc::new(Running {
            turn: tokio::sync::Mutex::default(),
            log: Arc::new(Log::new(log_limit)),
            namespace: AtomicU32::new(0),
            outlet: Mutex::default(),
            leaving: AtomicBool::new(false),
            gone: CancellationToken::new(),
            from: Mutex::default(),
            disk: Mutex::default(),
            watch: Mutex::default(),
        });
        running.insert(id.clone(), instance.clone());
        Some(instance)
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<Arc<Running>> {
        self.running.lock().get(id).cloned()
    }

    /// The checkpoint that an instance is a copy of.
    pub(crate) fn origin(&self, id: &InstanceId) -> Option<Key> {
        self.get(id)?.from.lock().clone()
    }

    pub(crate) fn ids(&self) -> Vec<InstanceId> {
        self.running.lock().keys().cloned().collect()
    }

    /// The checkpoints that instances stand on.
    pub(crate) fn stood_on(&self) -> Vec<Key> {
        self.running.lock().values().filter_map(|instance| instance.from.lock().clone()).collect()
    }

    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (sender, exits) = mpsc::unbounded_channel();
        *self.listener.lock() = Some(sender);
        exits
    }

    /// By the name of its container.
    pub(crate) fn find(&self, id: &str) -> Option<(InstanceId, Arc<Running>)> {
        let running = self.running.lock();
        let found = running.iter().find(|(known, _)| known.as_str() == id);
        found.map(|(known, instance)| (known.clone(), instance.clone()))
    }

    /// Tells whoever listens that it ended.
    pub(crate) fn tell(&self, id: &InstanceId, how: String) {
        if let Some(listener) = &*self.listener.lock() {
            // A listener that is gone does not want to know.
            let _ = listener.send(Exit { id: id.clone(), how });
        }
    }

    /// Frees its place, unless another has it by now.
    pub(crate) fn remove(&self, id: &InstanceId, instance: &Arc<Running>) {
        let mut running = self.running.lock();
        if running.get(id).is_some_and(|current| Arc::ptr_eq(current, instance)) {
            running.remove(id);
        }
    }
}
