//! Pulls images: the engine fetches them, with the login that this server has for the registry.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::{Stream, TryStreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::failure::{EngineContext, said};
use crate::runtime::{Login, LoginFile, Logins, RuntimeError, TransferProgress};

/// Longest time of the transfer of an image.
pub(super) const TRANSFER_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Time between two log lines about a pull.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time without a word from the engine.
const SILENCE_DEADLINE: Duration = Duration::from_secs(300);

/// How much has come of the images that are pulled now, by their references.
#[derive(Debug, Default)]
pub(super) struct Transfers(Mutex<HashMap<String, TransferProgress>>);

impl Transfers {
    /// Returns how much of an image has come, while it is pulled.
    pub(super) fn get(&self, reference: &str) -> Option<TransferProgress> {
        self.0.lock().get(reference).copied()
    }

    fn set(&self, reference: &str, progress: TransferProgress) {
        self.0.lock().insert(reference.to_owned(), progress);
    }

    fn end(&self, reference: &str) {
        self.0.lock().remove(reference);
    }
}

/// Pulls the image of a full reference, and records in `transfers` how far it is.
///
/// # Errors
/// The login file that the operator named cannot be read, or the image cannot be pulled. The text says why.
pub(super) async fn pull(
    docker: &Docker,
    reference: &str,
    file: Option<&LoginFile>,
    transfers: &Transfers,
) -> Result<(), RuntimeError> {
    let logins = Logins::for_pull(file)?;
    let registry = reference.split('/').next().unwrap_or_default();
    let login = logins.find(reference, registry);
    let options = CreateImageOptions { from_image: Some(reference.to_owned()), ..Default::default() };
    let patient = docker.clone().with_timeout(TRANSFER_DEADLINE);
    let progress = patient.create_image(Some(options), None, login.map(|login| credentials(login, registry)));
    let pulled = tokio::time::timeout(TRANSFER_DEADLINE, follow(reference, progress, transfers)).await;
    transfers.end(reference);
    let pulled = pulled.unwrap_or(Err(Error::RequestTimeoutError));
    if let Some(text) = pulled.as_ref().err().and_then(said) {
        let why = explain(registry, text, login.is_some(), logins.has_credential_helpers());
        return Err(RuntimeError::Start(format!("cannot pull {reference}: {why} ({text})")));
    }
    pulled.engine_context(|| format!("pull {reference}"))
}

fn credentials(login: &Login, registry: &str) -> DockerCredentials {
    let address = Some(registry.to_owned());
    match login {
        Login::Password { user, password } => DockerCredentials {
            username: Some(user.clone()),
            password: Some(password.reveal().to_owned()),
            serveraddress: address,
            ..Default::default()
        },
        Login::Token(token) => DockerCredentials {
            identitytoken: Some(token.reveal().to_owned()),
            serveraddress: address,
            ..Default::default()
        },
    }
}

/// Reads the engine's reports until the pull ends, and logs how far it is.
async fn follow(
    reference: &str,
    progress: impl Stream<Item = Result<CreateImageInfo, Error>>,
    transfers: &Transfers,
) -> Result<(), Error> {
    let mut progress = std::pin::pin!(progress);
    let mut layers = Layers::default();
    let mut logged = Instant::now();
    tracing::info!(reference, "image pull began");
    loop {
        let next = tokio::time::timeout(SILENCE_DEADLINE, progress.try_next()).await;
        let Some(report) = next.map_err(|_| Error::RequestTimeoutError)?? else { break };
        layers.add(&report);
        let arrived = layers.progress();
        transfers.set(reference, arrived);
        if logged.elapsed() >= PROGRESS_INTERVAL {
            logged = Instant::now();
            let TransferProgress { received, total } = arrived;
            tracing::info!(reference, received, total, "image pull in progress");
        }
    }
    tracing::info!(reference, "image pull done");
    Ok(())
}

/// Bytes of each layer that have come, and of the whole layer.
#[derive(Default)]
struct Layers(HashMap<String, (i64, i64)>);

impl Layers {
    fn add(&mut self, report: &CreateImageInfo) {
        let (Some(id), Some(detail)) = (&report.id, &report.progress_detail) else { return };
        // The engine reports the bytes that it unpacks in the same way.
        if report.status.as_deref() == Some("Downloading")
            && let (Some(received), Some(total)) = (detail.current, detail.total)
        {
            self.0.insert(id.clone(), (received, total));
        }
    }

    /// Returns the bytes that have come and those of all layers known so far.
    fn progress(&self) -> TransferProgress {
        let (received, total) =
            self.0.values().fold((0, 0), |(a, b), (received, total)| (a + received, b + total));
        let bytes = |count| u64::try_from(count).unwrap_or(0);
        TransferProgress { received: bytes(received), total: bytes(total) }
    }
}

/// Returns why a pull failed, in words for the operator: engines report all reasons in one text.
fn explain(registry: &str, text: &str, has_login: bool, has_helpers: bool) -> String {
    let text = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let unreachable = [
        "connection refused",
        "no such host",
        "i/o timeout",
        "network is unreachable",
        "no route to host",
        "connection reset",
        "server misbehaving",
        "tls handshake timeout",
        "client.timeout exceeded",
    ];
    if has(&["unauthorized", "authentication required", "denied", "no basic auth credentials"]) {
        match (has_login, has_helpers) {
            (true, _) => format!("{registry} refuses the login that REGISTRY_AUTH_FILE has for it"),
            (false, false) => format!(
                "{registry} has no such image, or wants a login that REGISTRY_AUTH_FILE does not have"
            ),
            (false, true) => format!(
                "{registry} wants a login, and REGISTRY_AUTH_FILE leaves logins to a credential helper, which this \
                 server does not run: name a file that contains the login"
            ),
        }
    } else if has(&["manifest unknown", "not found", "name unknown", "does not exist"]) {
        format!("{registry} has no such image or tag")
    } else if has(&unreachable) {
        format!("{registry} cannot be reached from the engine's host")
    } else if has(&["no matching manifest", "no image found in manifest list"]) {
        "it is not for this platform".to_owned()
    } else if has(&["toomanyrequests", "too many requests"]) {
        format!("{registry} limits pulls without a login: write one into REGISTRY_AUTH_FILE")
    } else if has(&["no space left"]) {
        "the file system of the engine's data is full".to_owned()
    } else {
        "the engine failed".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_a_failed_pull_has_its_words() {
        let why = |text: &str, login| explain("ghcr.io", text, login, false);
        let cases = [
            (
                "pull access denied for a/b, repository does not exist",
                false,
                "REGISTRY_AUTH_FILE does not have",
            ),
            ("unauthorized: authentication required", true, "refuses the login"),
            ("manifest for a:9 not found: manifest unknown", false, "no such image or tag"),
            ("dial tcp: lookup ghcr.io: no such host", false, "cannot be reached"),
            ("no matching manifest for linux/arm64/v8", false, "not for this platform"),
            ("toomanyrequests: You have reached your pull rate limit", false, "limits pulls"),
            ("write /var/lib: no space left on device", false, "is full"),
            ("something else", false, "the engine failed"),
        ];
        for (text, login, expected) in cases {
            assert!(why(text, login).contains(expected), "{text}: {}", why(text, login));
        }
        assert!(explain("a.example", "denied", false, true).contains("credential helper"));
    }

    #[test]
    fn the_progress_of_a_pull_is_the_sum_of_its_layers() {
        let report = |id: &str, status: &str, current, total| CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(bollard::models::ProgressDetail { current, total }),
            ..Default::default()
        };
        let mut layers = Layers::default();
        layers.add(&report("a", "Downloading", Some(1), Some(10)));
        layers.add(&report("b", "Downloading", Some(5), Some(5)));
        layers.add(&report("a", "Downloading", Some(7), Some(10)));
        layers.add(&report("b", "Extracting", Some(1), Some(5)));
        layers.add(&report("c", "Waiting", None, None));
        assert_eq!(layers.progress(), TransferProgress { received: 12, total: 15 });
    }
}
