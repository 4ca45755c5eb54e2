//! The health check of an image, as the ready check of a template that declares none.
//!
//! It decides when an instance is ready that was started cold. An instance that was restored was healthy when it was
//! frozen, and running a command in it takes longer than its restore: it is ready as soon as its app answers.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::readiness::{AppTarget, ReadinessError, connect};
use crate::instance::Endpoint;
use crate::runtime::{ExecCommand, StartRequest};
use crate::telemetry::{Metrics, Outcome};
use crate::template::{HealthCheck, ReadyCheck};

/// First pause between two runs. It doubles up to the interval of the check.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two runs. The interval of most checks is that of a check that is repeated for ever.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Most characters of a failed check's output in an error.
const MAX_OUTPUT_CHARS: usize = 200;

/// Repeats the health check until it succeeds and the app accepts connections. Returns the endpoint that did.
///
/// # Errors
/// `Timeout` after the timeout of the ready check and the start period of the health check, with the last failure.
pub(super) async fn wait_until_healthy(
    target: AppTarget<'_>,
    request: &StartRequest,
    check: &HealthCheck,
    ready: &ReadyCheck,
    metrics: &Metrics,
) -> Result<Endpoint, ReadinessError> {
    let after = ready.timeout.saturating_add(check.start_period);
    let deadline = Instant::now() + after;
    let longest_pause = check.interval.min(MAX_PAUSE);
    let mut pause = FIRST_PAUSE.min(longest_pause);
    loop {
        let start = Instant::now();
        let timeout = check.timeout.min(deadline.saturating_duration_since(start)).max(FIRST_PAUSE);
        let result = match run(target, request, check, timeout).await {
            Ok(()) => connect(target).await.map(|(_, endpoint)| endpoint).map_err(|error| {
                format!("its health check succeeds, but port {}: {error}", target.endpoint.port())
            }),
            Err(last) => Err(last),
        };
        let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
        metrics.record_ready_check(outcome, start.elapsed());
        match result {
            Ok(endpoint) => return Ok(endpoint),
            Err(last) if Instant::now() + pause >= deadline => {
                return Err(ReadinessError::Timeout { after, last, listening: None });
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(longest_pause);
    }
}

/// Runs the health check once.
async fn run(
    target: AppTarget<'_>,
    request: &StartRequest,
    check: &HealthCheck,
    timeout: Duration,
) -> Result<(), String> {
    let command = ExecCommand { argv: check.command.clone(), env: BTreeMap::new(), timeout };
    match target.runtime.exec(request, command).await {
        Ok(output) => match output.status {
            Some(0) => Ok(()),
            Some(status) => {
                let text = String::from_utf8_lossy(&output.output);
                let text: String = text.trim().chars().take(MAX_OUTPUT_CHARS).collect();
                Err(format!("the image's health check exited with {status}: {text}"))
            }
            None => Err(format!("the image's health check did not end within {timeout:?}")),
        },
        Err(error) => Err(format!("the image's health check cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Scheme;
    use crate::instance::{InstanceId, TemplateName};
    use crate::runtime::{ExecOutput, Exit, Runtime, RuntimeError, Started};
    use crate::template::App;

    /// A runtime whose commands fail a number of times before they succeed.
    #[derive(Default)]
    struct Failing {
        runs: AtomicU32,
        failures: u32,
    }

    #[async_trait]
    impl Runtime for Failing {
        fn name(&self) -> &'static str {
            "failing"
        }

        async fn start(&self, _: &StartRequest) -> Result<Started, RuntimeError> {
            Err(RuntimeError::Start("it starts nothing".to_owned()))
        }

        async fn exec(&self, _: &StartRequest, command: ExecCommand) -> Result<ExecOutput, RuntimeError> {
            assert_eq!(command.argv, ["check"]);
            let has_failed = self.runs.fetch_add(1, Ordering::Relaxed) < self.failures;
            Ok(ExecOutput { status: Some(has_failed.into()), output: Bytes::from_static(b"not yet\n") })
        }

        async fn stop(&self, _: &InstanceId) -> Result<(), RuntimeError> {
            Ok(())
        }

        async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
            Ok(Vec::new())
        }

        async fn logs(&self, _: &InstanceId) -> Option<Bytes> {
            None
        }

        fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
            mpsc::unbounded_channel().1
        }
    }

    async fn wait(runtime: &Failing, endpoint: Endpoint, start_period: Duration) -> Result<Endpoint, String> {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let (url, host, app) = (String::new(), String::new(), Arc::new(App::default()));
        let request = StartRequest::new(id, url, host, app, 1);
        let check = HealthCheck {
            command: vec!["check".to_owned()],
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
            start_period,
        };
        let ready = ReadyCheck { timeout: Duration::from_millis(200), ..ReadyCheck::default() };
        let target = AppTarget { runtime, endpoint, host: "a.test", scheme: Scheme::Http };
        let waited = wait_until_healthy(target, &request, &check, &ready, &Metrics::new()).await;
        waited.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_app_is_ready_when_its_check_succeeds_and_its_port_accepts_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        let runtime = Failing { failures: 3, ..Failing::default() };
        assert_eq!(wait(&runtime, endpoint, Duration::from_secs(20)).await, Ok(endpoint));
        assert_eq!(runtime.runs.load(Ordering::Relaxed), 4);
        let error =
            wait(&Failing { failures: u32::MAX, ..Failing::default() }, endpoint, Duration::ZERO).await;
        let error = error.unwrap_err();
        assert!(error.contains("within 200ms: the image's health check exited with 1: not yet"), "{error}");
        drop(listener);
        let error = wait(&Failing::default(), endpoint, Duration::ZERO).await.unwrap_err();
        assert!(error.contains("its health check succeeds, but port"), "{error}");
    }
}
