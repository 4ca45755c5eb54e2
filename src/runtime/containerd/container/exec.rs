//! Runs a command beside the app, in its container.

use std::convert::Infallible;
use std::time::Duration;

use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, KillRequest, StartRequest as StartTask, WaitRequest,
};
use prost_types::Any;
use serde_json::Value;

use super::spec;
use super::task::{SIGKILL, classify_runc_error};
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::client::{Client, ResponseExt, request, request_without_deadline};
use crate::runtime::containerd::host::kernel;
use crate::runtime::containerd::inner::Inner;
use crate::runtime::output_log::OutputLog;
use crate::runtime::{ExecCommand, ExecOutput, RuntimeError, StartRequest};
use crate::template::random_hex;

/// Output kept of a command, in bytes. The last output shows what went wrong.
const EXEC_OUTPUT_BYTES: usize = 16 * 1024;

/// Most bytes read from the pipe after the command ended: as many as a pipe holds. A process that the command started
/// may write without end.
const MAX_DRAIN_BYTES: usize = 1 << 20;

/// Time in which a killed command must end.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

impl Inner {
    /// Runs a command until it ends or its timeout expires. Afterwards only processes that it started remain.
    ///
    /// # Errors
    /// The command cannot be run or removed.
    pub(crate) async fn exec(
        &self,
        request: &StartRequest,
        command: ExecCommand,
    ) -> Result<ExecOutput, RuntimeError> {
        let random = random_hex::<8>().context(|| "name a command".to_owned())?;
        let name = format!("exec-{random}");
        let image = self.fetch_image(&request.app).await?;
        let has_ids = self.instances.get(&request.id).is_some_and(|instance| instance.ids.lock().is_some());
        let accounts = has_ids.then_some(self.account_limits);
        let process = spec::exec_process(
            request,
            &image.config,
            &command,
            kernel::max_open_files(),
            self.apparmor,
            accounts,
        )?;
        let context = || format!("create a pipe for a command in {}", request.id);
        let (pipe, mut output) = self.node_dir.create_pipe(&request.id, &name).context(context)?;
        let exec = ExecProcess { client: &self.client, container: request.id.as_str(), name: &name };
        let log = OutputLog::new(EXEC_OUTPUT_BYTES);
        let text = pipe.display().to_string();
        let status = exec.run(&process, &text, log.fill_from(&mut output), command.timeout).await;
        // After this all of its output has gone through the pipe.
        let removed = exec.remove().await;
        let mut rest = [0; EXEC_OUTPUT_BYTES];
        for _ in 0..MAX_DRAIN_BYTES / EXEC_OUTPUT_BYTES {
            // Reads by the system call, because tokio may not have noticed yet that there is data.
            let Ok(n @ 1..) = rustix::io::read(&output, &mut rest) else { break };
            log.push(&rest[..n]);
        }
        self.node_dir.remove_pipe(&pipe).context(context)?;
        let status = status?;
        removed?;
        Ok(ExecOutput { status, output: log.bytes() })
    }
}

/// A process of containerd beside the first one of a container.
struct ExecProcess<'a> {
    client: &'a Client,
    container: &'a str,
    name: &'a str,
}

impl ExecProcess<'_> {
    /// Runs the process and returns its exit status; `None` if it was killed at its timeout.
    async fn run(
        &self,
        process: &Value,
        pipe: &str,
        reading: impl Future<Output = ()>,
        timeout: Duration,
    ) -> Result<Option<u32>, RuntimeError> {
        let message = ExecProcessRequest {
            container_id: self.container.to_owned(),
            stdout: pipe.to_owned(),
            stderr: pipe.to_owned(),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: serde_json::to_vec(process).expect("a value is JSON"),
            }),
            exec_id: self.name.to_owned(),
            ..Default::default()
        };
        let context = || format!("run a command in {}", self.container);
        self.client.tasks().exec(request(message)).await.context(context).map_err(classify_runc_error)?;
        let message = StartTask { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        self.client.tasks().start(request(message)).await.context(context).map_err(classify_runc_error)?;

        let message = WaitRequest { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        let mut tasks = self.client.tasks();
        let reading = async {
            reading.await;
            std::future::pending::<Infallible>().await
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(timeout, tasks.wait(request_without_deadline(message))) => ended,
            never = reading => match never {},
        };
        match ended {
            Ok(answer) => {
                let answer = answer.context(|| format!("wait for a command in {}", self.container))?;
                Ok(Some(answer.exit_status))
            }
            Err(_) => {
                self.kill().await;
                Ok(None)
            }
        }
    }

    async fn kill(&self) {
        let message = KillRequest {
            container_id: self.container.to_owned(),
            exec_id: self.name.to_owned(),
            signal: SIGKILL,
            ..Default::default()
        };
        if let Err(error) = self.client.tasks().kill(request(message)).await {
            tracing::warn!(id = self.container, %error, "failed to kill command after its timeout");
        }
        let message = WaitRequest { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        let _ = tokio::time::timeout(KILL_DEADLINE, self.client.tasks().wait(request(message))).await;
    }

    /// Removes the process from containerd. One that does not exist is no error.
    async fn remove(&self) -> Result<(), RuntimeError> {
        let message =
            DeleteProcessRequest { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        let removed = self.client.tasks().delete_process(request(message)).await;
        removed.if_found(|| format!("remove a command from {}", self.container)).map(drop)
    }
}
