//! The shared connection to Valkey: all calls use it, with a deadline each, and it is opened again when it breaks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::damage::SharedDamageReport;
use super::error_text::unavailable;
use super::settings::{Mode, Settings};
use super::transport::Transport;
use crate::store::StoreError;

/// With less time than this before its deadline, a call does not begin to connect.
const MIN_CONNECT_TIME: Duration = Duration::from_millis(20);

/// A command or script to run.
pub(super) enum Call<'a> {
    Command(Cmd),
    /// A script, which is loaded again if Valkey no longer knows it.
    Script(ScriptInvocation<'a>),
}

/// Why a call was not done, or has no answer.
#[derive(Debug)]
pub(super) enum CallFailure {
    /// Valkey cannot be reached, or does not answer. The call may have been done.
    Unavailable(StoreError),
    /// The call surely was not done: another process answers than the one that was verified, or the step is not loaded.
    NotVerified,
}

/// The shared connection while it is open.
struct OpenConnection {
    transport: Transport,
    /// The process at the other end, see [`Transport::process`]. `None` on a cluster, where it changes without notice.
    process: Option<String>,
}

impl Call<'_> {
    async fn run<T: FromRedisValue>(&self, transport: &mut Transport) -> RedisResult<T> {
        match self {
            Call::Command(command) => command.query_async(transport).await,
            Call::Script(script) => script.invoke_async(transport).await,
        }
    }
}

/// The shared connection, open or not.
pub(super) struct Connection {
    settings: Settings,
    current: ArcSwapOption<OpenConnection>,
    /// Locked by the one caller that connects, so that a thousand callers do not open a thousand connections.
    connecting: Mutex<()>,
    damage: SharedDamageReport,
}

impl Connection {
    pub(super) fn new(settings: Settings, damage: SharedDamageReport) -> Self {
        Self { settings, current: ArcSwapOption::empty(), connecting: Mutex::default(), damage }
    }

    /// Makes a call within the call timeout, to whatever process is at the other end.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer, after which the call may have been done.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.settings.call_timeout;
        match self.call_process(call, None, deadline).await {
            Ok(answer) => Ok(answer),
            Err(CallFailure::Unavailable(error)) => Err(error),
            Err(CallFailure::NotVerified) => {
                Err(StoreError::Unavailable("Valkey no longer has the script".to_owned()))
            }
        }
    }

    /// Makes a call to that process and to no other, as far as the connection knows.
    ///
    /// If the connection breaks, the call is made once more on a new connection: the old one may have been broken for
    /// long, which shows only when it is used. So a call must be safe to repeat, see [`super::scripts`].
    ///
    /// # Errors
    /// As [`CallFailure`] says.
    pub(super) async fn call_process<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        process: Option<&str>,
        deadline: Instant,
    ) -> Result<T, CallFailure> {
        let mut may_repeat = true;
        let unavailable = |error| CallFailure::Unavailable(unavailable(error));
        loop {
            let open = match timeout_at(deadline, self.open(deadline)).await {
                Ok(open) => open.map_err(unavailable)?,
                Err(_) => return Err(CallFailure::Unavailable(connect_timed_out())),
            };
            if process.is_some_and(|process| open.process.as_deref().is_some_and(|it| it != process)) {
                // The connection may be one to an earlier process that no call has used since.
                self.discard(&open);
                if std::mem::take(&mut may_repeat) {
                    continue;
                }
                return Err(CallFailure::NotVerified);
            }
            match timeout_at(deadline, call.run(&mut open.transport.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
                        return Err(CallFailure::NotVerified);
                    }
                    self.damage.note_error(&error);
                    if needs_new_connection(&error) {
                        self.discard(&open);
                        if std::mem::take(&mut may_repeat) {
                            continue;
                        }
                    }
                    return Err(unavailable(error));
                }
                Err(_) => {
                    // A silent connection may be half open; the next call must not wait on it.
                    self.discard(&open);
                    return Err(CallFailure::Unavailable(answer_timed_out()));
                }
            }
        }
    }

    async fn open(&self, deadline: Instant) -> RedisResult<Arc<OpenConnection>> {
        if let Some(open) = self.current.load_full() {
            return Ok(open);
        }
        let _only_one_connects = self.connecting.lock().await;
        if let Some(open) = self.current.load_full() {
            return Ok(open);
        }
        // All callers that waited for a connection that failed reach this at about the same time; without this check
        // each would begin another.
        if Instant::now() + MIN_CONNECT_TIME >= deadline {
            return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        }
        let mut transport = Transport::connect(&self.settings, self.settings.call_timeout).await?;
        let process = match self.settings.mode {
            Mode::Cluster => None,
            Mode::Single | Mode::Sentinel { .. } => Some(transport.process().await?),
        };
        let open = Arc::new(OpenConnection { transport, process });
        self.current.store(Some(open.clone()));
        Ok(open)
    }

    /// Opens a connection that is not shared, within the call timeout. `answer_timeout` is the longest time of one
    /// answer on it.
    ///
    /// # Errors
    /// `Unavailable` when Valkey cannot be reached.
    pub(super) async fn connect(&self, answer_timeout: Duration) -> Result<Transport, StoreError> {
        self.in_time(Transport::connect(&self.settings, answer_timeout)).await
    }

    /// Opens a connection that is not shared to the server that has the keys, within the call timeout.
    ///
    /// # Errors
    /// `Unavailable` when Valkey cannot be reached.
    pub(super) async fn connect_to_key_owner(&self) -> Result<Transport, StoreError> {
        self.in_time(Transport::connect_to_key_owner(&self.settings)).await
    }

    async fn in_time(
        &self,
        connecting: impl Future<Output = RedisResult<Transport>>,
    ) -> Result<Transport, StoreError> {
        match timeout(self.settings.call_timeout, connecting).await {
            Ok(transport) => transport.map_err(unavailable),
            Err(_) => Err(connect_timed_out()),
        }
    }

    /// Forgets a connection, unless it was replaced by a newer one already.
    fn discard(&self, open: &Arc<OpenConnection>) {
        self.current.compare_and_swap(open, None);
    }
}

/// Whether a new connection may help: this one ended, or leads to a server that no longer is the primary.
fn needs_new_connection(error: &RedisError) -> bool {
    use ServerErrorKind::{MasterDown, ReadOnly};
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown))
}

fn connect_timed_out() -> StoreError {
    StoreError::Unavailable("cannot connect in time".to_owned())
}

/// The error of a call that got no answer in time.
pub(super) fn answer_timed_out() -> StoreError {
    StoreError::Unavailable("no answer in time".to_owned())
}
