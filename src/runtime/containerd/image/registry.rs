//! Pulls images. containerd fetches them from the registry itself, and asks this server for logins.
//!
//! [`explain`] recognises containerd's error texts; the test `image_pulls` checks it against real registries.

use containerd_client::tonic::{Code, Status, Streaming};
use containerd_client::types::transfer::{
    AuthRequest, AuthResponse, AuthType, OciRegistry, RegistryResolver,
};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;

use super::transfer::{self, TransferStream, to_any};
use crate::runtime::containerd::client::Client;
use crate::runtime::{Login, LoginFile, Logins, RuntimeError};

/// Pulls the image of a full reference, and unpacks it. Registries on this host may use plain HTTP: containerd falls
/// back to it for these, and for no others.
///
/// # Errors
/// The login file that the operator named cannot be read, or the image cannot be pulled. The text states the reason.
pub(super) async fn pull(
    client: &Client,
    reference: &str,
    file: Option<&LoginFile>,
) -> Result<(), RuntimeError> {
    let logins = Logins::for_pull(file)?;
    let stream = match logins.is_empty() {
        true => None,
        false => Some(transfer::open_stream(client, "login").await?),
    };
    let resolver = RegistryResolver {
        auth_stream: stream.as_ref().map(|stream| stream.id.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let source = OciRegistry { reference: reference.to_owned(), resolver: Some(resolver) };
    let destination = transfer::image_store(reference.to_owned(), Vec::new());
    let transferring = transfer::transfer(client, to_any(&source), to_any(&destination));
    let transferred = match stream {
        None => transferring.await,
        Some(TransferStream { sender, incoming, .. }) => tokio::select! {
            transferred = transferring => transferred,
            never = answer_logins(&logins, reference, sender, incoming) => match never {},
        },
    };
    transferred.map(drop).map_err(|status| RuntimeError::Start(explain(reference, &status, &logins)))
}

/// Answers containerd's requests for a login until the transfer ends. Never returns.
async fn answer_logins(
    logins: &Logins,
    reference: &str,
    sender: mpsc::Sender<Any>,
    mut incoming: Streaming<Any>,
) -> std::convert::Infallible {
    while let Ok(Some(question)) = incoming.message().await {
        let question = AuthRequest::decode(question.value.as_slice()).unwrap_or_default();
        let login = logins.find(reference, &question.host);
        tracing::debug!(reference, host = question.host, known = login.is_some(), "login requested");
        if sender.send(to_any(&auth_response(login))).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

fn auth_response(login: Option<&Login>) -> AuthResponse {
    let (kind, username, secret) = match login {
        None => (AuthType::None, "", ""),
        Some(Login::Password { user, password }) => (AuthType::Credentials, user.as_str(), password.reveal()),
        Some(Login::Token(token)) => (AuthType::Refresh, "", token.reveal()),
    };
    AuthResponse {
        auth_type: kind.into(),
        secret: secret.to_owned(),
        username: username.to_owned(),
        expire_at: None,
    }
}

/// Returns why a pull failed, in words for the operator: containerd reports all reasons in one text.
fn explain(reference: &str, status: &Status, logins: &Logins) -> String {
    let registry = reference.split('/').next().unwrap_or_default();
    let text = status.message();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let unauthorised =
        ["401 Unauthorized", "403 Forbidden", "authorization failed", "no basic auth credentials"];
    let unreachable = [
        "connection refused",
        "no such host",
        "i/o timeout",
        "network is unreachable",
        "no route to host",
        "connection reset",
        "server misbehaving",
        "TLS handshake timeout",
    ];
    let why = if has(&unauthorised) || matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
    {
        match (logins.find(reference, registry), logins.has_credential_helpers()) {
            (Some(_), _) => format!("{registry} refuses the login that REGISTRY_AUTH_FILE has for it"),
            (None, false) => format!("{registry} wants a login, and REGISTRY_AUTH_FILE has none for it"),
            (None, true) => format!(
                "{registry} wants a login, and REGISTRY_AUTH_FILE leaves logins to a credential helper, which this \
                 server does not run: name a file that contains the login"
            ),
        }
    } else if has(&unreachable) {
        format!("{registry} cannot be reached")
    } else if has(&["no match for platform"]) {
        let host = transfer::platform();
        format!("it is not for this platform, {}/{}", host.os, host.architecture)
    } else if status.code() == Code::NotFound || has(&["not found"]) {
        format!("{registry} has no such image or tag")
    } else if status.code() == Code::DeadlineExceeded {
        format!("{registry} did not answer in time")
    } else {
        "containerd failed".to_owned()
    };
    format!("cannot pull {reference}: {why} ({text})")
}
