//! Admission of steps: each waits until the state of Valkey is verified, see [`super::recovery`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Script, ScriptInvocation, cmd};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::connection::{Call, CallFailure, Connection};
use super::damage::SharedDamageReport;
use super::recovery::{GrantLog, MissingRecord, ReportGeneration, answer_too_late};
use super::script_reply::ScriptReply;
use super::scripts::{Scripts, Step, TermSteps};
use super::settings::Settings;
use crate::clock::Clock;
use crate::instance::NodeId;
use crate::store::{HeartbeatReply, StoreError};

/// Pause of a caller whose step was refused because the term is over.
const TERM_OVER_BACKOFF: Duration = Duration::from_millis(1);

/// A term in which this node runs steps.
pub(super) struct OpenTerm {
    pub(super) name: String,
    /// The Valkey process that has the term.
    pub(super) process: String,
    pub(super) steps: TermSteps,
    /// The answers of the steps belong to this report generation.
    pub(super) generation: ReportGeneration,
}

/// The failed attempts to open a term.
#[derive(Debug, Clone, Default)]
struct FailedAttempts {
    count: u64,
    last_reason: String,
}

/// The last list of nodes that this node got in a term.
#[derive(Default)]
pub(super) struct LastNodeList {
    /// `None` before the first.
    pub(super) list: Option<HeartbeatReply>,
    /// The number of the answer that contained it.
    pub(super) number: u64,
    /// The number of an earlier such answer that Valkey knows this node to have.
    pub(super) acknowledged: u64,
}

/// What all calls of a store and its recovery task share.
///
/// Steps are admitted while a term is open. While none is, callers wait until the recovery task opens one, until it
/// fails, or until their deadline.
pub(super) struct Admission {
    pub(super) settings: Settings,
    pub(super) connection: Connection,
    pub(super) scripts: Scripts,
    pub(super) grant_log: Mutex<GrantLog>,
    pub(super) last_node_list: Mutex<LastNodeList>,
    /// Instances without a record, see [`Admission::find_flaw`].
    pub(super) missing: Mutex<Vec<MissingRecord>>,
    /// Of how many terms this node loaded the steps since it had Valkey forget all scripts.
    pub(super) terms_loaded: AtomicU64,
    term: ArcSwapOption<OpenTerm>,
    failed_attempts: watch::Sender<FailedAttempts>,
    /// Signs of damaged data, and what wakes the recovery task.
    pub(super) damage: SharedDamageReport,
    /// The number of the heartbeat with which this node joined, as Valkey said last. It changes when the node comes back
    /// after an eviction.
    pub(super) joined: AtomicU64,
    /// The check of unclaimed instances, for when another node may have removed them from Valkey.
    pub(super) unclaimed_check: PendingCheck,
    /// Ends the recovery task.
    pub(super) stop: CancellationToken,
}

/// A check that is wanted at times. One that becomes wanted while one is made is made once more.
#[derive(Debug, Default)]
pub(super) struct PendingCheck {
    wanted: AtomicU64,
    done: AtomicU64,
}

impl PendingCheck {
    pub(super) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns what [`PendingCheck::finish`] takes once the check is made; `None` if none is wanted.
    pub(super) fn pending(&self) -> Option<u64> {
        let wanted = self.wanted.load(Ordering::Acquire);
        (wanted != self.done.load(Ordering::Acquire)).then_some(wanted)
    }

    pub(super) fn finish(&self, wanted: u64) {
        self.done.store(wanted, Ordering::Release);
    }
}

impl Admission {
    pub(super) fn new(settings: Settings, grant_log: GrantLog) -> Self {
        let damage = SharedDamageReport::default();
        Self {
            connection: Connection::new(settings.clone(), damage.clone()),
            settings,
            scripts: Scripts::new(),
            grant_log: Mutex::new(grant_log),
            last_node_list: Mutex::default(),
            missing: Mutex::default(),
            terms_loaded: AtomicU64::new(0),
            term: ArcSwapOption::empty(),
            failed_attempts: watch::Sender::default(),
            damage,
            joined: AtomicU64::new(0),
            unclaimed_check: PendingCheck::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Returns the node that uses the store.
    pub(super) fn node(&self) -> &NodeId {
        &self.settings.node
    }

    /// Returns the present for a script, as the prelude of the scripts reads it; empty for Valkey's own time.
    fn now(&self) -> String {
        match &self.settings.clock {
            Some(Clock::Shared(time)) if !time.is_aligned() => String::new(),
            Some(clock @ Clock::Shared(_)) => format!("steady:{}", clock.now().0),
            Some(clock) => clock.now().0.to_string(),
            None => String::new(),
        }
    }

    /// Returns an answer to be read. If it turns out to be malformed, that counts as a sign of damage.
    pub(super) fn reply(&self, words: Vec<String>) -> ScriptReply {
        ScriptReply::new(words, self.damage.clone())
    }

    /// Returns the call of a step in that term.
    pub(super) fn step_call(&self, term: &OpenTerm, step: &Step, arguments: &[&str]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(term.steps.hash(step)).arg(1).arg(&self.settings.prefix);
        call.arg(self.now()).arg(self.settings.max_route_events).arg(arguments);
        call
    }

    /// Returns the call of a script that is not a step.
    pub(super) fn script_call<'a>(&self, script: &'a Script, arguments: &[&str]) -> ScriptInvocation<'a> {
        let mut call = script.key(&self.settings.prefix);
        call.arg(self.now()).arg(self.settings.max_route_events).arg(arguments);
        call
    }

    /// Runs a step as soon as a term is open. Returns its answer and the term in which it ran.
    ///
    /// # Errors
    /// `Unavailable` when no term opens, or no answer comes, within the call timeout.
    pub(super) async fn run(
        &self,
        step: &Step,
        arguments: &[&str],
    ) -> Result<(ScriptReply, Arc<OpenTerm>), StoreError> {
        let deadline = Instant::now() + self.settings.call_timeout;
        loop {
            let term = self.wait_for_term(deadline).await?;
            let call = Call::Command(self.step_call(&term, step, arguments));
            let answer: Result<Vec<String>, _> =
                self.connection.call_process(&call, Some(&term.process), deadline).await;
            match answer {
                Ok(words) if words == ["unverified"] => {}
                Ok(words) => return Ok((self.reply(words), term)),
                Err(CallFailure::NotVerified) => {}
                Err(CallFailure::Unavailable(error)) => return Err(error),
            }
            // The step surely was not done, so it may be called again in the next term.
            self.close_term(&term);
            tokio::time::sleep(TERM_OVER_BACKOFF).await;
        }
    }

    /// Runs a command that only reads, as soon as a term is open.
    ///
    /// # Errors
    /// `Unavailable` when no term opens, or no answer comes, within the call timeout, or when the term is over.
    pub(super) async fn read<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.settings.call_timeout;
        let term = self.wait_for_term(deadline).await?;
        match self.connection.call_process(&Call::Command(command), Some(&term.process), deadline).await {
            Ok(answer) => Ok(answer),
            Err(CallFailure::Unavailable(error)) => Err(error),
            Err(CallFailure::NotVerified) => {
                self.close_term(&term);
                Err(answer_too_late())
            }
        }
    }

    /// Waits until a term is open.
    ///
    /// # Errors
    /// `Unavailable` when an attempt to open one fails, or none opens before the deadline.
    pub(super) async fn wait_for_term(&self, deadline: Instant) -> Result<Arc<OpenTerm>, StoreError> {
        if let Some(term) = self.term() {
            return Ok(term);
        }
        let mut attempts = self.failed_attempts.subscribe();
        let failed_before = attempts.borrow_and_update().count;
        loop {
            if let Some(term) = self.term() {
                return Ok(term);
            }
            let FailedAttempts { count, last_reason } = attempts.borrow_and_update().clone();
            if count > failed_before {
                return Err(StoreError::Unavailable(last_reason));
            }
            if timeout_at(deadline, attempts.changed()).await.is_err() {
                return Err(not_verified());
            }
        }
    }

    /// Returns the open term, if there is one.
    pub(super) fn term(&self) -> Option<Arc<OpenTerm>> {
        self.term.load_full()
    }

    /// Whether the open term has that name.
    pub(super) fn is_open(&self, term: &str) -> bool {
        self.term().is_some_and(|open| open.name == term)
    }

    /// Closes a term, unless another was opened since, and wakes the recovery task.
    pub(super) fn close_term(&self, term: &Arc<OpenTerm>) {
        self.term.compare_and_swap(term, None);
        self.damage.wake_recovery.notify_one();
    }

    /// Closes the open term, if there is one.
    pub(super) fn close_any_term(&self) {
        self.term.store(None);
    }

    /// Opens a term, and wakes all callers that wait for one.
    pub(super) fn open_term(&self, term: OpenTerm) {
        self.term.store(Some(Arc::new(term)));
        self.failed_attempts.send_modify(|_| {});
    }

    /// Lets all callers that wait for a term fail.
    pub(super) fn report_failed_attempt(&self, error: &StoreError) {
        let reason = match error {
            StoreError::Unavailable(reason) => reason.clone(),
            other => other.to_string(),
        };
        self.failed_attempts.send_modify(|attempts| {
            *attempts = FailedAttempts { count: attempts.count + 1, last_reason: reason };
        });
    }
}

/// The error of a call that came before the state of Valkey was verified.
pub(super) fn not_verified() -> StoreError {
    StoreError::Unavailable("its state is not verified yet after a restart or a data loss".to_owned())
}
