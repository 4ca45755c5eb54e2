//! The recovery task of a node: checks Valkey while all is well, and opens and closes terms.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::audit::AuditSchedule;
use super::session::{RecoverySession, VerificationState};
use crate::store::StoreError;
use crate::store::valkey::admission::Admission;
use crate::store::valkey::memory_policy::{self, EvictionRisk};
use crate::store::valkey::transport::Transport;
use crate::telemetry::log_rate::LogRate;

/// How often the process and the term of Valkey are checked while a term is open.
///
/// For up to this time a new node gets no ready instance of another node, see [`super`].
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How often Valkey is asked whether it may evict keys: its operator may change that while it runs.
const RISK_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Pause after a check that failed.
const FAILED_CHECK_BACKOFF: Duration = Duration::from_millis(50);

/// Pause after a round that ended without this node's report, or whose term was over at once.
const FAILED_ROUND_BACKOFF: Duration = Duration::from_millis(20);

/// Checks Valkey until [`Admission::stop`] is cancelled.
pub(crate) async fn run(admission: Arc<Admission>) {
    let stop = admission.stop.clone();
    let mut task = RecoveryTask {
        admission,
        transport: None,
        closed_since: None,
        damage_log: LogRate::default(),
        recovery_log: LogRate::default(),
        logs_recovery: true,
        audit: AuditSchedule::new(),
        eviction_risk: None,
        next_risk_check: Instant::now(),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = task.run() => {}
    }
}

struct RecoveryTask {
    admission: Arc<Admission>,
    /// A connection to one Valkey process, with which it ends.
    transport: Option<Transport>,
    /// Since when no term is open.
    closed_since: Option<Instant>,
    damage_log: LogRate,
    recovery_log: LogRate,
    /// Whether the end of the recovery in progress is logged, as its begin was.
    logs_recovery: bool,
    audit: AuditSchedule,
    /// Whether Valkey may evict keys, as it was read last.
    eviction_risk: Option<EvictionRisk>,
    next_risk_check: Instant,
}

impl RecoveryTask {
    async fn run(&mut self) {
        loop {
            let is_new_connection = self.transport.is_none();
            let pause = match self.check().await {
                Ok(()) => CHECK_INTERVAL,
                Err(error) => {
                    self.transport = None;
                    if !is_new_connection {
                        // Perhaps only the connection ended.
                        continue;
                    }
                    tracing::debug!(%error, "failed to check Valkey");
                    self.admission.report_failed_attempt(&error);
                    FAILED_CHECK_BACKOFF
                }
            };
            let _woken = timeout(pause, self.admission.damage.wake_recovery.notified()).await;
        }
    }

    /// Checks Valkey once, and returns when a term is open.
    async fn check(&mut self) -> Result<(), StoreError> {
        let transport = match self.transport.take() {
            Some(transport) => transport,
            None => self.admission.connection.connect_to_key_owner().await?,
        };
        let mut session = RecoverySession::begin(self.admission.clone(), transport).await?;
        let mut damaged: Option<String> = None;
        loop {
            match session.verification_state(damaged.as_deref()).await? {
                VerificationState::Verified { term, newest_heartbeat } => {
                    if self.admission.is_open(&term) {
                        session.check_unclaimed_if_needed().await?;
                        session.acknowledge_nodes(newest_heartbeat).await?;
                        let Some(open) = self.admission.term().filter(|open| open.name == term) else {
                            continue;
                        };
                        let Some(flaw) = self.audit.find_flaw(&self.admission, &open).await? else { break };
                        self.log_damage(&flaw);
                        damaged = Some(term);
                        continue;
                    }
                    if let Some(flaw) = self.audit.take_sign(&self.admission) {
                        self.log_damage(&flaw);
                        damaged = Some(term);
                        continue;
                    }
                    if session.open_term(&term, false).await? {
                        self.note_opened();
                        break;
                    }
                }
                VerificationState::Recovering { round } => {
                    self.admission.close_any_term();
                    if let Some(flaw) = self.audit.take_sign(&self.admission) {
                        self.log_damage(&flaw);
                        damaged = Some(round);
                        continue;
                    }
                    self.note_closed(&round);
                    if let Some(term) = session.recover(&round).await?
                        && session.open_term(&term, true).await?
                    {
                        self.note_opened();
                        break;
                    }
                    // Keys that are evicted faster than they are restored must not let Valkey do nothing else.
                    tokio::time::sleep(FAILED_ROUND_BACKOFF).await;
                }
            }
        }
        if Instant::now() >= self.next_risk_check {
            self.next_risk_check = Instant::now() + RISK_CHECK_INTERVAL;
            let risk = session.eviction_risk().await?;
            memory_policy::log_change(self.eviction_risk.as_ref(), &risk);
            self.eviction_risk = Some(risk);
        }
        self.transport = Some(session.into_transport());
        Ok(())
    }

    fn log_damage(&mut self, flaw: &str) {
        let Some(not_logged) = self.damage_log.admit() else { return };
        tracing::warn!(
            flaw,
            not_logged,
            remedy = memory_policy::REMEDY,
            "Valkey lost or changed keys of this program; restoring them from local records"
        );
    }

    fn note_closed(&mut self, round: &str) {
        if self.closed_since.is_some() {
            return;
        }
        self.closed_since = Some(Instant::now());
        self.logs_recovery = self.recovery_log.admit().is_some();
        if self.logs_recovery {
            tracing::info!(%round, "Valkey state not verified, replaying local records");
        }
    }

    fn note_opened(&mut self) {
        self.audit.end_repair();
        // Signs from before the repair say nothing of the data now.
        self.admission.damage.take();
        let took = self.closed_since.take().map(|since| since.elapsed().as_millis());
        if std::mem::replace(&mut self.logs_recovery, true) {
            tracing::info!(millis = took.map(|took| took as u64), "Valkey state verified");
        }
    }
}
