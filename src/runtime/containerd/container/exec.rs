//! A command beside the app, in its container.

use std::convert::Infallible;
use std::time::Duration;

use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, KillRequest, StartRequest as StartTask, WaitRequest,
};
use prost_types::Any;
use serde_json::Value;

use super::spec;
use super::start::most_open_files;
use super::{SIGKILL, blame_the_app};
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::Inner;
use crate::runtime::containerd::client::{Answer, Client, lasting, request};
use crate::runtime::log::Log;
use crate::runtime::{Command, ExecOutput, RuntimeError, StartRequest};
use crate::template::random_hex;

/// Output that is kept of a command, in bytes: its end says what went wrong.
const LOG_LIMIT: usize = 16 * 1024;

/// Most that a pipe holds. What a command has started may write without end.
const MOST_LEFT: usize = 1 << 20;

/// Time that a command has to be gone after it was killed.
const GRACE: Duration = Duration::from_secs(5);

impl Inner {
    /// Runs a command to its end, or to its deadline. Nothing of it is left then but what it has started.
    pub(crate) async fn exec(
        &self,
        order: &StartRequest,
        command: Command,
    ) -> Result<ExecOutput, RuntimeError> {
        let random = random_hex::<8>().doing(|| "name a command".to_owned())?;
        let name = format!("exec-{random}");
        let image = self.image(&order.app).await?;
        let process = spec::command(order, &image.config, &command, most_open_files())?;
        let on_host = || format!("make a pipe for a command in {}", order.id);
        let (pipe, mut output) = self.folder.make_pipe(&order.id, &name).doing(on_host)?;
        let exec = Exec { client: &self.client, container: order.id.as_str(), name: &name };
        let log = Log::new(LOG_LIMIT);
        let text = pipe.display().to_string();
        let status = exec.run(&process, &text, log.fill_from(&mut output), command.timeout).await;
        // After that all that it wrote has come through the pipe.
        let removed = exec.remove().await;
        let mut rest = [0; LOG_LIMIT];
        for _ in 0..MOST_LEFT / LOG_LIMIT {
            // By the system's word: tokio may not have heard yet that there is something to read.
            let Ok(n @ 1..) = rustix::io::read(&output, &mut rest) else { break };
            log.push(&rest[..n]);
        }
        self.folder.remove_pipe(&pipe).doing(on_host)?;
        let status = status?;
        removed?;
        Ok(ExecOutput { status, output: log.bytes() })
    }
}

struct Exec<'a> {
    client: &'a Client,
    container: &'a str,
    name: &'a str,
}

impl Exec<'_> {
    /// To its exit status; `None` when it had to be killed.
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
        let doing = || format!("run a command in {}", self.container);
        self.client.tasks().exec(request(message)).await.doing(doing).map_err(blame_the_app)?;
        let message = StartTask { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        self.client.tasks().start(request(message)).await.doing(doing).map_err(blame_the_app)?;

        let message = WaitRequest { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        let mut tasks = self.client.tasks();
        let reading = async {
            reading.await;
            std::future::pending::<Infallible>().await
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(timeout, tasks.wait(lasting(message))) => ended,
            never = reading => match never {},
        };
        match ended {
            Ok(answer) => {
                let answer = answer.doing(|| format!("wait for a command in {}", self.container))?;
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
            tracing::warn!(id = self.container, %error, "a command that took too long could not be killed");
        }
        let message = WaitRequest { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        let _ = tokio::time::timeout(GRACE, self.client.tasks().wait(request(message))).await;
    }

    /// Forgets it. One that does not exist is no error.
    async fn remove(&self) -> Result<(), RuntimeError> {
        let message =
            DeleteProcessRequest { container_id: self.container.to_owned(), exec_id: self.name.to_owned() };
        let removed = self.client.tasks().delete_process(request(message)).await;
        removed.if_known(|| format!("remove a command from {}", self.container)).map(drop)
    }
}
