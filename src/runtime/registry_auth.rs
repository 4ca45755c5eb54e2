//! Logins for registries, from a file as `docker login` and `podman login` write it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::template::Secret;

/// The registry that has several names, and its usual one.
const HUB: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
const HUB_NAME: &str = "docker.io";

/// Where the logins are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    /// The file.
    pub path: PathBuf,
    /// Whether the operator named it. Else it is where others keep theirs, and need not be there.
    pub named: bool,
}

/// How one logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// With a name and a password, or what takes its place.
    Password {
        /// Who.
        user: String,
        /// The password.
        password: Secret,
    },
    /// With a token for more tokens.
    Token(Secret),
}

/// The logins of a file, by registry or a path in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logins {
    logins: BTreeMap<String, Login>,
    /// Whether others are kept by a program, which is not asked.
    elsewhere: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl LoginFile {
    /// What is in it now; nothing when it is not there and need not be.
    ///
    /// # Errors
    /// A sentence that names the file, and shows nothing of what is in it.
    pub fn read(&self) -> Result<Logins, String> {
        let path = self.path.display();
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Logins::parse(&text).map_err(|wrong| format!("{path}:{wrong}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.named => Ok(Logins::default()),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }
}

impl Logins {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A line or a key, and what is wrong with it. What is there is not shown: it may be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text)
            .map_err(|error| format!("{}: it is not as `docker login` writes it", error.line()))?;
        let elsewhere = document.creds_store.is_some() || !document.cred_helpers.is_empty();
        let mut logins = BTreeMap::new();
        for (registry, entry) in document.auths {
            let wrong =
                || format!(" auths.{registry}: its auth is no base64 of a name, a colon and a password");
            if let Some(login) = entry.login().map_err(|()| wrong())? {
                logins.insert(plain(&registry), login);
            }
        }
        Ok(Self { logins, elsewhere })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    /// Whether others are kept by a program, which is not asked.
    pub fn are_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// The login for `host` to get the image of a full reference: of the longest part of the image's name that there is
    /// one for, when the host is the reference's own registry, else of the host alone.
    pub fn find(&self, reference: &str, host: &str) -> Option<&Login> {
        let host = plain(host);
        let name = reference.split('@').next().unwrap_or_default();
        let mut part = Some(name).filter(|name| name.split('/').next() == Some(&host)).unwrap_or(&host);
        loop {
            if let Some(login) = self.logins.get(part) {
                return Some(login);
            }
            // A tag is no part of the name, but none is a key either.
            part = part.rsplit_once('/')?.0;
        }
    }
}

impl Entry {
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

/// A registry's name without what is written around it: old files have `https://index.docker.io/v1/`.
fn plain(registry: &str) -> String {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest).trim_end_matches('/');
    let rest = ["/v1", "/v2"].iter().find_map(|version| rest.strip_suffix(version)).unwrap_or(rest);
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = if HUB.contains(&host) { HUB_NAME } else { host };
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
    fn the_login_of_the_longest_part_of_a_name_is_taken() {
        let logins = Logins::parse(FILE).unwrap();
        assert!(logins.are_elsewhere() && !logins.is_empty());
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
    fn what_is_wrong_is_told_without_showing_it() {
        for (text, told) in [
            ("{\n\"auths\": \"hunter2\"}", "2: it is not as `docker login` writes it"),
            (
                r#"{"auths":{"a.example":{"auth":"hunter2"}}}"#,
                " auths.a.example: its auth is no base64 of a name, a colon and a password",
            ),
        ] {
            assert_eq!(Logins::parse(text).unwrap_err(), told);
        }
        let shown = format!("{:?}", Logins::parse(FILE).unwrap());
        assert!(!shown.contains("secret") && !shown.contains("token"), "{shown}");
    }

    #[test]
    fn only_a_file_that_was_named_must_be_there() {
        let path = PathBuf::from("/nowhere/config.json");
        assert!(LoginFile { path: path.clone(), named: false }.read().unwrap().is_empty());
        let told = LoginFile { path, named: true }.read().unwrap_err();
        assert!(told.starts_with("/nowhere/config.json: "), "{told}");
    }
}
