//! Who may ask: while the store is not vouched for nobody is answered, see [`super::recovery`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Script, ScriptInvocation, cmd};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::connection::{Call, Connection, Failure};
use super::recovery;
use super::recovery::grant_log::{GrantLog, ReportGeneration, too_late};
use super::script_reply::Reply;
use super::scripts::{GatedScript, LoadedScripts, Scripts};
use super::settings::Settings;
use crate::instance::NodeId;
use crate::store::{Membership, StoreError};

/// Pause of a caller that found the gate closed.
const YIELD_INTERVAL: Duration = Duration::from_millis(1);

/// A store that was vouched for.
pub(super) struct Open {
    /// What it is called.
    pub(super) tenure: String,
    /// In which process.
    pub(super) process: String,
    pub(super) told: LoadedScripts,
    pub(super) era: ReportGeneration,
}

/// What became of the last attempt to open.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn {
    /// Why it failed, and how many did.
    failed: (u64, String),
}

/// What was last told under a tenure of who is there.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) roster: Option<Membership>,
    /// The number of that answer.
    pub(super) number: u64,
    /// The number of the one before it, that the store knows to have arrived.
    pub(super) acknowledged: u64,
}

/// See the module.
pub(super) struct Admission {
    pub(super) settings: Settings,
    pub(super) link: Connection,
    pub(super) scripts: Scripts,
    pub(super) notebook: Mutex<GrantLog>,
    pub(super) heard: Mutex<Heard>,
    open: ArcSwapOption<Open>,
    turned: watch::Sender<Turn>,
    /// Wakes the keeper: the gate closed.
    pub(super) wake: Notify,
    /// Whether what is unclaimed here may have been removed from the store by somebody else.
    pub(super) unsure: AtomicBool,
    kept: AtomicBool,
    pub(super) stop: CancellationToken,
}

impl Admission {
    pub(super) fn new(settings: Settings, notebook: GrantLog) -> Self {
        Self {
            link: Connection::new(settings.clone()),
            settings,
            scripts: Scripts::new(),
            notebook: Mutex::new(notebook),
            heard: Mutex::default(),
            open: ArcSwapOption::empty(),
            turned: watch::Sender::default(),
            wake: Notify::new(),
            unsure: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }
    }

    /// Whose store it is.
    pub(super) fn node(&self) -> &NodeId {
        &self.settings.node
    }

    /// The present for a script: empty for Valkey's own.
    pub(super) fn now(&self) -> String {
        self.settings.clock.as_ref().map(|clock| clock.now().0.to_string()).unwrap_or_default()
    }

    /// A call of a step in the words of that tenure.
    pub(super) fn step(&self, open: &Open, step: &GatedScript, arguments: &[&str]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(open.told.hash(step)).arg(1).arg(&self.settings.prefix);
        call.arg(self.now()).arg(self.settings.route_events).arg(arguments);
        call
    }

    /// A call of a script that is no step.
    pub(super) fn other<'a>(&self, script: &'a Script, arguments: &[&str]) -> ScriptInvocation<'a> {
        let mut call = script.key(&self.settings.prefix);
        call.arg(self.now()).arg(self.settings.route_events).arg(arguments);
        call
    }

    /// Has a step done as soon as the gate is open. Returns in which era it was.
    pub(super) async fn run(
        self: &Arc<Self>,
        step: &GatedScript,
        arguments: &[&str],
    ) -> Result<(Reply, Arc<Open>), StoreError> {
        let deadline = Instant::now() + self.settings.deadline;
        loop {
            let open = self.passed(deadline).await?;
            let call = Call::Command(self.step(&open, step, arguments));
            let words: Result<Vec<String>, _> = self.link.call_of(&call, Some(&open.process), deadline).await;
            match words {
                Ok(words) if words == ["closed"] => {}
                Ok(words) => return Ok((Reply::new(words), open)),
                Err(Failure::NotTold) => {}
                Err(Failure::Unavailable(error)) => return Err(error),
            }
            // It was surely not done.
            self.close(&open);
            tokio::time::sleep(YIELD_INTERVAL).await;
        }
    }

    /// The same with what is no script and only reads.
    pub(super) async fn read<T: FromRedisValue>(self: &Arc<Self>, command: Cmd) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.settings.deadline;
        let open = self.passed(deadline).await?;
        match self.link.call_of(&Call::Command(command), Some(&open.process), deadline).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Unavailable(error)) => Err(error),
            Err(Failure::NotTold) => {
                self.close(&open);
                Err(too_late())
            }
        }
    }

    /// Waits until the gate is open.
    pub(super) async fn passed(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Open>, StoreError> {
        if let Some(open) = self.open.load_full() {
            return Ok(open);
        }
        self.start();
        let mut turns = self.turned.subscribe();
        let before = turns.borrow_and_update().failed.0;
        loop {
            if let Some(open) = self.open.load_full() {
                return Ok(open);
            }
            let (failed, why) = turns.borrow_and_update().failed.clone();
            if failed > before {
                return Err(StoreError::Unavailable(why));
            }
            if timeout_at(deadline, turns.changed()).await.is_err() {
                return Err(StoreError::Unavailable("it is being recovered".to_owned()));
            }
        }
    }

    pub(super) fn current(&self) -> Option<Arc<Open>> {
        self.open.load_full()
    }

    /// Closes the gate, unless it was opened anew since.
    pub(super) fn close(&self, open: &Arc<Open>) {
        self.open.compare_and_swap(open, None);
        self.wake.notify_one();
    }

    pub(super) fn shut(&self) {
        self.open.store(None);
    }

    pub(super) fn open(&self, open: Open) {
        self.open.store(Some(Arc::new(open)));
        self.turned.send_modify(|_| {});
    }

    /// An attempt to open failed, and those who wait need not wait on.
    pub(super) fn failed(&self, why: &StoreError) {
        let why = match why {
            StoreError::Unavailable(why) => why.clone(),
            other => other.to_string(),
        };
        self.turned.send_modify(|turn| turn.failed = (turn.failed.0 + 1, why));
    }

    /// Has the gate kept from now on, until the store is dropped.
    pub(super) fn start(self: &Arc<Self>) {
        if !self.kept.swap(true, Ordering::AcqRel) {
            crate::telemetry::task::spawn("store recovery", recovery::keep(self.clone()));
        }
    }
}
