//! What the engine says about containers.
//!
//! **Trap.** bollard accepts only the states that Docker has, and Podman has more (`stopped`), so these questions are
//! asked without it, and only the fields that count are read.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest time of a question.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A container, as the engine describes it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Container {
    state: State,
    network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    running: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    pid: i64,
    exit_code: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Binding {
    host_port: String,
}

/// A container in the engine's list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ContainerSummary {
    pub(super) id: String,
    pub(super) labels: Option<HashMap<String, String>>,
    state: String,
}

impl ContainerSummary {
    /// Lists the containers that pass the filters, running or not.
    ///
    /// # Errors
    /// The engine does not answer in time, or refuses.
    pub(super) async fn list(socket: &Path, filters: &HashMap<String, Vec<String>>) -> io::Result<Vec<Self>> {
        let filters = serde_json::to_string(filters)?;
        let filters = utf8_percent_encode(&filters, NON_ALPHANUMERIC);
        match get(socket, &format!("/containers/json?all=true&filters={filters}")).await? {
            (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Returns whether it runs.
    pub(super) fn is_running(&self) -> bool {
        self.state == "running"
    }
}

impl Container {
    /// Asks the engine at a socket about a container; `None` if it has none with this id.
    ///
    /// # Errors
    /// The engine does not answer in time, or refuses.
    pub(super) async fn inspect(socket: &Path, container: &str) -> io::Result<Option<Self>> {
        match get(socket, &format!("/containers/{container}/json")).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Returns the number on this host of its first process, if it runs.
    pub(super) fn running_pid(&self) -> Option<u32> {
        u32::try_from(self.state.pid).ok().filter(|pid| self.state.running && *pid > 0)
    }

    /// Returns the port of this host that leads to a TCP port of the container.
    pub(super) fn published_port(&self, port: u16) -> Option<u16> {
        let bindings = self.network_settings.ports.as_ref()?.get(&format!("{port}/tcp"))?.as_ref()?;
        bindings.iter().find_map(|binding| binding.host_port.parse().ok())
    }

    /// Describes how it ended, by the convention of shells: above 128 it was a signal.
    pub(super) fn end_cause(&self) -> String {
        let status = self.state.exit_code;
        match status - 128 {
            _ if self.state.oom_killed => "out of memory".to_owned(),
            signal @ 1.. => format!("signal {signal}"),
            _ => format!("exit status {status}"),
        }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> io::Error {
    io::Error::other(format!("{status}: {}", String::from_utf8_lossy(body).trim()))
}

/// Returns the engine's status and answer.
///
/// # Errors
/// The engine does not answer in time.
async fn get(socket: &Path, path: &str) -> io::Result<(StatusCode, Bytes)> {
    timeout(DEADLINE, ask(socket, path)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn ask(socket: &Path, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(format!("/v1.41{path}")).header("host", "engine");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    };
    tokio::select! {
        biased;
        answer = asking => answer,
        ended = connection => {
            ended.map_err(io::Error::other)?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(text: &str) -> Container {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn states_that_only_one_engine_has_are_read() {
        let stopped = container(r#"{"State":{"Status":"stopped","Running":false,"Pid":0,"ExitCode":3}}"#);
        assert_eq!((stopped.running_pid(), stopped.end_cause().as_str()), (None, "exit status 3"));
        let killed =
            container(r#"{"State":{"ExitCode":137,"OOMKilled":false},"NetworkSettings":{"Ports":null}}"#);
        assert_eq!((killed.end_cause().as_str(), killed.published_port(80)), ("signal 9", None));
        let full = container(r#"{"State":{"ExitCode":137,"OOMKilled":true}}"#);
        assert_eq!(full.end_cause(), "out of memory");
    }

    #[test]
    fn a_published_port_and_a_process_are_found() {
        let running = container(
            r#"{"State":{"Running":true,"Pid":7},"NetworkSettings":{"Ports":{"53/udp":null,
               "80/tcp":[{"HostIp":"127.0.0.1","HostPort":"32768"}]}}}"#,
        );
        assert_eq!((running.running_pid(), running.published_port(80)), (Some(7), Some(32_768)));
        assert_eq!((running.published_port(53), running.published_port(81)), (None, None));
    }
}
