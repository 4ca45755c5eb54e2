//! Pulling images: containerd gets them from the registry itself, and asks us for logins.

use containerd_client::tonic::{Code, Status, Streaming};
use containerd_client::types::transfer::{
    AuthRequest, AuthResponse, AuthType, OciRegistry, RegistryResolver,
};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;

use super::transfer::{self, Stream, any};
use crate::runtime::containerd::client::Client;
use crate::runtime::{Login, LoginFile, Logins, RuntimeError};

/// Pulls what a full reference names, and unpacks it. Registries on this host may speak plain HTTP: containerd falls back
/// to it for those, and for no others.
pub(crate) async fn pull(
    client: &Client,
    reference: &str,
    file: Option<&LoginFile>,
) -> Result<(), RuntimeError> {
    let logins = match file.map(LoginFile::read) {
        Some(Err(wrong)) if file.is_some_and(|file| file.named) => return Err(RuntimeError::Start(wrong)),
        Some(Err(wrong)) => {
            tracing::warn!(%wrong, "images are pulled without logins");
            Logins::default()
        }
        Some(Ok(logins)) => logins,
        None => Logins::default(),
    };
    let stream = match logins.is_empty() {
        true => None,
        false => Some(transfer::open_stream(client, "login").await?),
    };
    let resolver = RegistryResolver {
        auth_stream: stream.as_ref().map(|stream| stream.id.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let source = OciRegistry { reference: reference.to_owned(), resolver: Some(resolver) };
    let destination = transfer::store(reference.to_owned(), Vec::new());
    let transferring = transfer::transfer(client, any(&source), any(&destination));
    let transferred = match stream {
        None => transferring.await,
        Some(Stream { sender, incoming, .. }) => tokio::select! {
            transferred = transferring => transferred,
            never = log_in(&logins, reference, sender, incoming) => match never {},
        },
    };
    transferred.map(drop).map_err(|status| RuntimeError::Start(explain(reference, &status, &logins)))
}

/// Answers containerd whenever it asks for a login, and waits for the end of the transfer.
async fn log_in(
    logins: &Logins,
    reference: &str,
    sender: mpsc::Sender<Any>,
    mut incoming: Streaming<Any>,
) -> std::convert::Infallible {
    while let Ok(Some(question)) = incoming.message().await {
        let question = AuthRequest::decode(question.value.as_slice()).unwrap_or_default();
        let login = logins.find(reference, &question.host);
        tracing::debug!(
            reference,
            host = question.host,
            known = login.is_some(),
            "containerd asks for a login"
        );
        if sender.send(any(&answer(login))).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

fn answer(login: Option<&Login>) -> AuthResponse {
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

/// What is wrong, in words for the operator: containerd tells all in one text.
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
        match (logins.find(reference, registry), logins.are_elsewhere()) {
            (Some(_), _) => format!("{registry} refuses the login that REGISTRY_AUTH_FILE has for it"),
            (None, false) => format!("{registry} wants a login, and REGISTRY_AUTH_FILE has none for it"),
            (None, true) => format!(
                "{registry} wants a login, and REGISTRY_AUTH_FILE leaves logins to a program, which is not asked: name \
                 a file that holds it"
            ),
        }
    } else if has(&unreachable) {
        format!("{registry} cannot be reached")
    } else if has(&["no match for platform"]) {
        let ours = transfer::platform();
        format!("it is not for this platform, {}/{}", ours.os, ours.architecture)
    } else if status.code() == Code::NotFound || has(&["not found"]) {
        format!("{registry} has no such image or tag")
    } else if status.code() == Code::DeadlineExceeded {
        format!("{registry} is too slow")
    } else {
        "containerd could not".to_owned()
    };
    format!("pull {reference}: {why} ({text})")
}
