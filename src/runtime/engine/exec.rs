//! Runs commands in an instance beside its app.

use std::time::Duration;

use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use super::failure::EngineContext;
use super::inner::Inner;
use super::instances::EngineInstance;
use super::output::keep;
use super::settings::Reach;
use crate::runtime::output_log::OutputLog;
use crate::runtime::{ExecCommand, ExecOutput, RuntimeError, StartRequest};

/// Output kept of a command, in bytes.
const EXEC_OUTPUT_BYTES: usize = 64 * 1024;
/// Time between two questions whether a command has ended. Its output may be held open by processes that it started.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// Time in which the engine delivers the rest of the output of a command that has ended.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);
/// Time in which a killed command must end.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// Exit statuses of the engine for a program that cannot be run.
const NOT_RUN: [i64; 2] = [126, 127];
/// What Docker and Podman write then in place of the output of the program.
const NOT_RUN_TEXTS: [&str; 2] = ["OCI runtime exec failed", "OCI runtime attempted to invoke"];

impl Inner {
    /// Runs a command until it ends or its timeout expires.
    ///
    /// # Errors
    /// The command cannot be run.
    pub(super) async fn exec(
        &self,
        request: &StartRequest,
        instance: &EngineInstance,
        command: ExecCommand,
    ) -> Result<ExecOutput, RuntimeError> {
        let operation = || format!("run a command in {}", request.id);
        let not_running = || RuntimeError::Start(format!("{} does not run", request.id));
        let container = instance.container().ok_or_else(not_running)?;
        let config = ExecConfig {
            cmd: Some(command.argv.clone()),
            env: Some(command.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = self.docker.create_exec(&container, config).await.start_context(operation)?.id;
        let started =
            self.docker.start_exec(&exec, None::<StartExecOptions>).await.start_context(operation)?;
        let log = OutputLog::new(EXEC_OUTPUT_BYTES);
        let deadline = Instant::now() + command.timeout;
        let status = match started {
            StartExecResults::Attached { output, input: _input } => {
                let mut reading = std::pin::pin!(keep(&log, output));
                let mut is_read = false;
                loop {
                    // The end of the output is the quickest sign of the end of the command.
                    if !is_read {
                        is_read = timeout(STATUS_INTERVAL, &mut reading).await.is_ok();
                    } else {
                        sleep(STATUS_INTERVAL / 10).await;
                    }
                    if let Some(status) = self.exec_status(&exec).await.engine_context(operation)? {
                        if !is_read {
                            let _ = timeout(DRAIN_DEADLINE, &mut reading).await;
                        }
                        break Some(status);
                    }
                    if Instant::now() >= deadline {
                        self.kill_exec(&exec).await;
                        break None;
                    }
                }
            }
            StartExecResults::Detached => None,
        };
        let output = log.bytes();
        let text = String::from_utf8_lossy(&output);
        if status.is_some_and(|status| NOT_RUN.contains(&status))
            && NOT_RUN_TEXTS.iter().any(|words| text.contains(words))
        {
            return Err(RuntimeError::Start(text.trim().to_owned()));
        }
        Ok(ExecOutput { status: status.map(|status| status as u32), output })
    }

    /// Returns the exit status of a command; `None` while it runs.
    async fn exec_status(&self, exec: &str) -> Result<Option<i64>, bollard::errors::Error> {
        let state = self.docker.inspect_exec(exec).await?;
        Ok(if state.running == Some(true) { None } else { state.exit_code })
    }

    /// Kills a command. Engines have no call for that, so only a server that sees the processes of the engine's host
    /// can; else the command ends with its instance.
    async fn kill_exec(&self, exec: &str) {
        let pid = match self.docker.inspect_exec(exec).await {
            Ok(state) => state.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw),
            Err(_) => None,
        };
        let Some(pid) = pid.filter(|_| self.reach == Reach::Namespace) else { return };
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::debug!(exec, %error, "failed to kill command after its timeout");
        }
        let deadline = Instant::now() + KILL_DEADLINE;
        while Instant::now() < deadline && matches!(self.exec_status(exec).await, Ok(None)) {
            sleep(STATUS_INTERVAL).await;
        }
    }
}
