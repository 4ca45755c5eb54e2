//! Images as other tools build them start and are restored as Docker would run them.

mod builder;
mod configuration;
mod layers;
mod listening;
mod users;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::{ExecCommand, Runtime, StartMethod, StartRequest, Started};
use try_it_now::template::App;

use super::{REVISION, TestNode, output, start_request, wait_until, with_timeout};

/// An instance that runs, with the request that started it.
struct Running<'a> {
    runtime: &'a dyn Runtime,
    request: StartRequest,
    started: Started,
}

impl<'a> Running<'a> {
    async fn start(runtime: &'a dyn Runtime, app: &App) -> Self {
        let request = start_request(app);
        let started = with_timeout(runtime.start(&request)).await.unwrap();
        Self { runtime, request, started }
    }

    fn id(&self) -> &InstanceId {
        &self.request.id
    }

    /// Runs a script beside the app and returns its output.
    async fn script(&self, script: &str) -> String {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let command = ExecCommand { argv, env: BTreeMap::new(), timeout: Duration::from_secs(10) };
        let output = with_timeout(self.runtime.exec(&self.request, command)).await.unwrap();
        let text = String::from_utf8_lossy(&output.output).into_owned();
        assert_eq!(output.status, Some(0), "{script}: {text}");
        text
    }

    /// Returns the body of the app's answer to `GET /`.
    async fn page(&self) -> String {
        get(self.runtime, self.started.endpoint).await
    }
}

/// Returns the body of an answer to `GET /`.
async fn get(runtime: &dyn Runtime, endpoint: Endpoint) -> String {
    let answer = wait_until("it answers", async || {
        let mut stream = runtime.connect(endpoint).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    });
    answer.await
}

/// Calls `check` with an instance that was started cold and with two that were restored.
async fn cold_and_restored(test_node: &TestNode, app: &App, check: impl AsyncFn(&Running<'_>)) {
    let runtime = test_node.open().await;
    let cold = Running::start(&runtime, app).await;
    assert_eq!(cold.started.method, StartMethod::Cold);
    check(&cold).await;
    with_timeout(runtime.bake(cold.id(), REVISION, app)).await.unwrap();
    // runc restores the first one.
    for _ in 0..2 {
        let restored = Running::start(&runtime, app).await;
        assert_eq!(restored.started.method, StartMethod::Restored);
        check(&restored).await;
    }
}
