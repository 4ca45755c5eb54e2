//! The connection to NATS, and the check of what it leads to, each second.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::{Client, ConnectOptions};
use tokio::time::{Instant, timeout};

use super::{DEADLINE, JetStreamQueue, unavailable, within};
use crate::cluster::queue::QueueError;
use crate::telemetry::task;
use crate::template::Secret;

/// The oldest version of the server that loses no message of a work queue.
const MIN_VERSION: (u32, u32) = (2, 14);

/// Time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two attempts of the first check, in which the connection is made.
const FIRST_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Longest time of the first check.
const FIRST_CHECK_DEADLINE: Duration = Duration::from_secs(3);

/// Least time between two log lines about the same outage.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Longest time between two attempts to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Where NATS is, and how the queue uses it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers, as `nats://host:port` or `tls://host:port`, without credentials.
    pub servers: Vec<String>,
    /// How to log in.
    pub credentials: Option<Credentials>,
    /// The name of the stream of jobs.
    pub stream: String,
    /// How long a job may be neither settled nor reported on before it is delivered again: 2 to 5 s.
    pub ack_wait: Duration,
}

/// How to log in to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    User(String, Secret),
    /// A token.
    Token(Secret),
}

/// What a server of NATS reports of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// Its version.
    pub version: String,
    /// Why the queue cannot use it; `None` when it can.
    pub problem: Option<String>,
}

/// Connects. With `is_patient`, returns at once, and the connection is made and kept in the background.
pub(super) async fn connect(settings: &Settings, is_patient: bool) -> Result<Client, QueueError> {
    let mut options = ConnectOptions::new()
        .name("try-it-now")
        .connection_timeout(DEADLINE)
        .request_timeout(Some(DEADLINE))
        .ping_interval(Duration::from_secs(5))
        .max_reconnects(is_patient.then_some(0).or(Some(1)))
        .reconnect_delay_callback(|attempts| {
            let doubled = Duration::from_millis(50 << attempts.min(6));
            doubled.min(MAX_RECONNECT_DELAY)
        })
        .event_callback(|event| async move { tracing::debug!(%event, "connection to NATS changed") });
    if is_patient {
        options = options.retry_on_initial_connect();
    }
    options = match settings.credentials.clone() {
        Some(Credentials::User(name, password)) => {
            options.user_and_password(name, password.reveal().to_owned())
        }
        Some(Credentials::Token(token)) => options.token(token.reveal().to_owned()),
        None => options,
    };
    options.connect(settings.servers.as_slice()).await.map_err(unavailable)
}

/// Asks the server of `settings` what it is, and changes nothing. Takes some seconds at most.
///
/// # Errors
/// It cannot be reached, or refuses the login.
pub async fn report(settings: &Settings) -> Result<ServerReport, QueueError> {
    let client = within(DEADLINE, connect(settings, false)).await?;
    let version = client.server_info().version;
    let problem = version_problem(&version);
    let problem = match problem {
        Some(problem) => Some(problem),
        None => {
            let asking = async_nats::jetstream::new(client.clone());
            within(DEADLINE, async { asking.query_account().await.map_err(unavailable) })
                .await
                .err()
                .map(|error| format!("its JetStream does not answer: {}", error.0))
        }
    };
    Ok(ServerReport { version, problem })
}

/// Begins the checks in the background, and waits for the first that succeeds, for at most [`FIRST_CHECK_DEADLINE`].
pub(super) async fn watch(queue: &Arc<JetStreamQueue>) {
    let first = async {
        while !queue.update().await {
            tokio::time::sleep(FIRST_CHECK_INTERVAL).await;
        }
    };
    // The repeated checks log it.
    let _is_reached = timeout(FIRST_CHECK_DEADLINE, first).await;
    task::spawn("queue check", repeat(Arc::downgrade(queue)));
}

async fn repeat(queue: Weak<JetStreamQueue>) {
    let mut logged_at: Option<Instant> = None;
    while let Some(queue) = queue.upgrade() {
        queue.update().await;
        match queue.problem.load_full() {
            Some(why) if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) => {
                tracing::warn!(%why, "queue unavailable; this node fills its own pools");
                logged_at = Some(Instant::now());
            }
            None if logged_at.take().is_some() => tracing::info!("queue available again"),
            _ => {}
        }
        drop(queue);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

impl JetStreamQueue {
    /// Checks the connection, the server and the streams, which are made if they are missing. Returns whether the queue
    /// works.
    async fn update(&self) -> bool {
        let checked = within(DEADLINE, self.prepare()).await;
        let works = checked.is_ok();
        self.problem.store(checked.err().map(|error| Arc::new(error.0)));
        works
    }

    async fn prepare(&self) -> Result<(), QueueError> {
        if self.client.connection_state() != State::Connected {
            return Err(QueueError("no server of NATS_URL can be reached".to_owned()));
        }
        if let Some(problem) = version_problem(&self.client.server_info().version) {
            return Err(QueueError(problem));
        }
        for wanted in [self.names.jobs_config(), self.names.parked_config()] {
            let (name, retention) = (wanted.name.clone(), wanted.retention);
            let found = self.context.get_or_create_stream(wanted).await.map_err(unavailable)?;
            check_stream(&name, retention, &found.cached_info().config)?;
        }
        Ok(())
    }
}

/// Checks that a stream is one of this program.
fn check_stream(name: &str, retention: RetentionPolicy, found: &Config) -> Result<(), QueueError> {
    if found.retention == retention {
        return Ok(());
    }
    Err(QueueError(format!(
        "the stream {name} has another retention policy, so another program made it: remove it, or set \
         NATS_STREAM_NAME to another name"
    )))
}

/// Returns why a server of this version cannot be used.
fn version_problem(version: &str) -> Option<String> {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Some(format!("its version is {version:?}, which is no version of NATS"));
    };
    ((major, minor) < MIN_VERSION).then(|| {
        format!("nats-server {version} loses messages of work queues: install 2.14.0 or a later version")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_lose_messages_are_refused_with_a_remedy() {
        for version in ["2.14.0", "2.15.1", "3.0.0", "2.14.0-RC.1"] {
            assert_eq!(version_problem(version), None, "{version}");
        }
        for version in ["2.13.9", "1.99.0", "2.2.0"] {
            assert!(version_problem(version).unwrap().contains("2.14.0"), "{version}");
        }
        assert!(version_problem("").is_some());
    }

    #[test]
    fn credentials_are_not_shown() {
        let secret = || Secret::new("hunter2");
        for credentials in [Credentials::User("a".to_owned(), secret()), Credentials::Token(secret())] {
            assert!(!format!("{credentials:?}").contains("hunter2"));
        }
    }
}
