//! The recovery task of a node: checks Valkey while all is well, and opens and closes terms.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::session::{RecoverySession, VerificationState};
use crate::store::StoreError;
use crate::store::valkey::admission::Admission;
use crate::store::valkey::transport::Transport;

/// How often the process and the term of Valkey are checked while a term is open.
///
/// For up to this time a new node gets no ready instance of another node, see [`super`].
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Pause after a check that failed.
const FAILED_CHECK_BACKOFF: Duration = Duration::from_millis(50);

/// Checks Valkey until [`Admission::stop`] is cancelled.
pub(crate) async fn run(admission: Arc<Admission>) {
    let stop = admission.stop.clone();
    let mut task = RecoveryTask { admission, transport: None, closed_since: None };
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
            let _woken = timeout(pause, self.admission.wake_recovery.notified()).await;
        }
    }

    /// Checks Valkey once, and returns when a term is open.
    async fn check(&mut self) -> Result<(), StoreError> {
        let transport = match self.transport.take() {
            Some(transport) => transport,
            None => self.admission.connection.connect_to_key_owner().await?,
        };
        let mut session = RecoverySession::begin(self.admission.clone(), transport).await?;
        loop {
            match session.verification_state().await? {
                VerificationState::Verified { term, newest_heartbeat } => {
                    if self.admission.is_open(&term) {
                        session.check_unclaimed_if_needed().await?;
                        session.acknowledge_nodes(newest_heartbeat).await?;
                        break;
                    }
                    if session.open_term(&term, false).await? {
                        self.log_opened();
                        break;
                    }
                }
                VerificationState::Recovering { round } => {
                    self.admission.close_any_term();
                    if self.closed_since.is_none() {
                        self.closed_since = Some(Instant::now());
                        tracing::info!(%round, "Valkey state not verified, replaying local records");
                    }
                    if let Some(term) = session.recover(&round).await?
                        && session.open_term(&term, true).await?
                    {
                        self.log_opened();
                        break;
                    }
                }
            }
        }
        self.transport = Some(session.into_transport());
        Ok(())
    }

    fn log_opened(&mut self) {
        let took = self.closed_since.take().map(|since| since.elapsed().as_millis());
        tracing::info!(millis = took.map(|took| took as u64), "Valkey state verified");
    }
}
