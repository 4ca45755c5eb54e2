//! Logins for image registries, read from a file as `docker login` and `podman login` write it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::RuntimeError;
use crate::template::Secret;

/// Other names of Docker Hub.
const HUB_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// The usual name of Docker Hub.
const HUB_NAME: &str = "docker.io";

/// The file that holds the logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Whether the operator named the file. If not, it is the default path of other tools, and may be missing.
    pub is_explicit: bool,
}

/// A login for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A name with a password, or with a token in place of one.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token with which other tokens are requested (OAuth refresh token).
    Token(Secret),
}

/// The logins of a file, by registry or by a path in a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logins {
    logins: BTreeMap<String, Login>,
    /// Whether the file refers to credential helpers, programs that hold further logins. The server runs none of them.
    has_credential_helpers: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthDocument {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl LoginFile {
    /// Returns the logins in the file; none if it is missing and was not named by the operator.
    ///
    /// # Errors
    /// The file cannot be read or parsed. The text names the file and shows none of its content.
    pub fn read(&self) -> Result<Logins, String> {
        let path = self.path.display();
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Logins::parse(&text).map_err(|wrong| format!("{path}:{wrong}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_explicit => {
                Ok(Logins::default())
            }
            Err(error) => Err(format!("{path}: {error}")),
        }
    }
}

impl Logins {
    /// Returns the logins for a pull: those of a file, or none without one. A file that the operator did not name and that
    /// cannot be read is a warning.
    ///
    /// # Errors
    /// The file that the operator named cannot be read or parsed.
    pub(crate) fn for_pull(file: Option<&LoginFile>) -> Result<Self, RuntimeError> {
        let Some(file) = file else { return Ok(Self::default()) };
        match file.read() {
            Err(error) if file.is_explicit => Err(RuntimeError::Start(error)),
            Err(error) => {
                tracing::warn!(%error, "failed to read registry logins; pulling without");
                Ok(Self::default())
            }
            Ok(logins) => Ok(logins),
        }
    }

    /// Parses the text of a login file.
    ///
    /// # Errors
    /// The line or the key, and what is wrong with it. The value is not shown: it may be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: AuthDocument = serde_json::from_str(text)
            .map_err(|error| format!("{}: not in the format that `docker login` writes", error.line()))?;
        let has_credential_helpers = document.creds_store.is_some() || !document.cred_helpers.is_empty();
        let mut logins = BTreeMap::new();
        for (registry, entry) in document.auths {
            let wrong =
                || format!(" auths.{registry}: `auth` is not the base64 of a name, a colon and a password");
            if let Some(login) = entry.login().map_err(|()| wrong())? {
                logins.insert(normalize_registry(&registry), login);
            }
        }
        Ok(Self { logins, has_credential_helpers })
    }

    /// Returns whether there are no logins.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    /// Returns whether the file refers to credential helpers, which are not run.
    pub fn has_credential_helpers(&self) -> bool {
        self.has_credential_helpers
    }

    /// Returns the login for `host` to pull the image of a full reference. If `host` is the registry of the reference,
    /// this is the login of the longest prefix of the image's name, else the login of `host` alone.
    pub fn find(&self, reference: &str, host: &str) -> Option<&Login> {
        let host = normalize_registry(host);
        let name = reference.split('@').next().unwrap_or_default();
        let mut part = Some(name).filter(|name| name.split('/').next() == Some(&host)).unwrap_or(&host);
        loop {
            if let Some(login) = self.logins.get(part) {
                return Some(login);
            }
            // A tag is no part of the name, but no key has a tag either.
            part = part.rsplit_once('/')?.0;
        }
    }
}

impl AuthEntry {
    fn login(self) -> Result<Option<Login>, ()> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.identitytoken) {
            return Ok(Some(Login::Token(Secret::new(token))));
        }
        if let Some(auth) = filled(self.auth) {
            let pair = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = pair.as_deref().map(|pair| pair.trim_end_matches('\0'));
            let (user, password) = pair.and_then(|pair| pair.split_once(':')).ok_or(())?;
            return Ok(Some(Login::Password { user: user.to_owned(), password: Secret::new(password) }));
        }
        Ok(filled(self.username)
            .zip(filled(self.password))
            .map(|(user, password)| Login::Password { user, password: Secret::new(password) }))
    }
}

/// Returns a registry's name without scheme and version: old files have `https://index.docker.io/v1/`.
fn normalize_registry(registry: &str) -> String {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest).trim_end_matches('/');
    let rest = ["/v1", "/v2"].iter().find_map(|version| rest.strip_suffix(version)).unwrap_or(rest);
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = if HUB_ALIASES.contains(&host) { HUB_NAME } else { host };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: Secret::new(password) })
    }

    const FILE: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": { "auth": "YW5uYTphOmI=" },
            "ghcr.io": { "username": "bo", "password": "x" },
            "ghcr.io/you": { "auth": "eW91OnNlY3JldA==" },
            "azure.example": { "auth": "MDA6", "identitytoken": "token" },
            "kept.example": {}
        },
        "credsStore": "desktop",
        "HttpHeaders": { "User-Agent": "x" }
    }"#;

    #[test]
    fn the_login_of_the_longest_prefix_of_a_name_is_used() {
        let logins = Logins::parse(FILE).unwrap();
        assert!(logins.has_credential_helpers() && !logins.is_empty());
        let find = |reference: &str, host: &str| logins.find(reference, host).cloned();
        assert_eq!(find("docker.io/library/php:8", "registry-1.docker.io"), password("anna", "a:b"));
        assert_eq!(find("ghcr.io/you/app:2", "ghcr.io"), password("you", "secret"));
        assert_eq!(find("ghcr.io/you/app@sha256:00", "ghcr.io"), password("you", "secret"));
        assert_eq!(find("ghcr.io/others/app:2", "ghcr.io"), password("bo", "x"));
        assert_eq!(find("azure.example/a:1", "azure.example"), Some(Login::Token(Secret::new("token"))));
        assert_eq!(find("kept.example/a:1", "kept.example"), None);
    }

    #[test]
    fn a_login_is_for_its_own_registry_only() {
        let logins = Logins::parse(FILE).unwrap();
        assert_eq!(logins.find("ghcr.io/you/app:2", "mirror.example"), None);
        assert_eq!(logins.find("quay.io/you/app:2", "quay.io"), None);
        assert_eq!(logins.find("ghcr.io:5000/you/app:2", "ghcr.io:5000"), None);
    }

    #[test]
    fn an_error_does_not_show_the_content_of_the_file() {
        for (text, expected) in [
            ("{\n\"auths\": \"hunter2\"}", "2: not in the format that `docker login` writes"),
            (
                r#"{"auths":{"a.example":{"auth":"hunter2"}}}"#,
                " auths.a.example: `auth` is not the base64 of a name, a colon and a password",
            ),
        ] {
            assert_eq!(Logins::parse(text).unwrap_err(), expected);
        }
        let shown = format!("{:?}", Logins::parse(FILE).unwrap());
        assert!(!shown.contains("secret") && !shown.contains("token"), "{shown}");
    }

    #[test]
    fn only_a_file_that_the_operator_named_must_exist() {
        let path = PathBuf::from("/nowhere/config.json");
        assert!(LoginFile { path: path.clone(), is_explicit: false }.read().unwrap().is_empty());
        let error = LoginFile { path, is_explicit: true }.read().unwrap_err();
        assert!(error.starts_with("/nowhere/config.json: "), "{error}");
    }
}
