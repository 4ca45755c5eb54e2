//! Hooks: what gives each instance of an app its own address, keys and passwords.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use ring::hmac;

use super::readiness;
use super::readiness::AppTarget;
use crate::instance::InstanceId;
use crate::runtime::{DatabaseAccess, ExecCommand, InstanceFile, Runtime, StartRequest};
use crate::template::hooks::{ExecHook, FileContent, HookCalls, HttpHook, TemplateText};
use crate::template::node_secret::KeyUse;
use crate::template::{App, Hooks, NodeSecret, Secret, Template};

/// The characters of random texts: letters and digits that are not mistaken for one another; five bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Most characters of a failed command's output in an error.
const MAX_REPORTED_OUTPUT: usize = 400;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("the hook `{hook}` {what}")]
pub(in crate::pool) struct HookError {
    /// As the template declares it: with placeholders instead of their values.
    hook: String,
    what: String,
}

/// The source of the random texts of all instances.
///
/// The texts are not stored: each is derived from a key and the instance's id, which is unique. The key comes from the
/// `secret` file of the node with the embedded store, else from the secret that all nodes of the cluster share (see
/// [`LocalNode::set_shared_secret`](crate::cluster::LocalNode::set_shared_secret)).
///
/// **When the derivation changes**, change `RANDOM_TEXTS_DERIVATION` in `template/mod.rs` too: instances outlive the
/// server, and their texts must stay what they are.
pub(in crate::pool) struct RandomTexts(hmac::Key);

/// The sources of the random texts: of the instances that this version makes, and of those that outlived an earlier one.
/// Also the other secret of the pool that all nodes share.
pub(in crate::pool) struct RandomTextSources {
    current: RandomTexts,
    earlier: RandomTexts,
    proof_of_work: Secret,
}

impl RandomTextSources {
    pub(in crate::pool) fn new(secret: &NodeSecret) -> Self {
        let proof_of_work = hmac::sign(&secret.key(KeyUse::ProofOfWork), b"challenges");
        Self {
            current: RandomTexts(secret.key(KeyUse::HookTexts)),
            earlier: RandomTexts(secret.earlier_hook_texts_key()),
            proof_of_work: Secret::new(hex::encode(proof_of_work)),
        }
    }

    /// Returns the secret that signs challenges of the proof of work.
    pub(in crate::pool) fn proof_of_work_secret(&self) -> &Secret {
        &self.proof_of_work
    }

    /// Returns the source for new instances.
    pub(in crate::pool) fn current(&self) -> &RandomTexts {
        &self.current
    }

    /// Returns the source for an instance of `template` that was made at this revision; `None` when the template has
    /// changed since.
    pub(in crate::pool) fn of_revision(&self, revision: u64, template: &Template) -> Option<&RandomTexts> {
        if revision == template.revision {
            Some(&self.current)
        } else {
            (revision == template.earlier_revision()).then_some(&self.earlier)
        }
    }
}

impl RandomTexts {
    /// Returns the random text `name` of an instance.
    fn text(&self, id: &InstanceId, name: &str, length: usize) -> String {
        let block = |number: u32| {
            // Unambiguous: neither an id nor a name contains a space.
            let tag = hmac::sign(&self.0, format!("{id} {name} {number}").as_bytes());
            tag.as_ref().to_vec()
        };
        let bytes = (0..).flat_map(block);
        bytes.take(length).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
    }
}

/// The placeholder of the password of an instance's database, and what that password is derived by: no random text has
/// a name in small letters.
const DATABASE_PASSWORD: (&str, &str) = ("DATABASE_PASSWORD", "database");

/// Characters of the password of a database, five random bits each.
const DATABASE_PASSWORD_LENGTH: usize = 32;

/// The values of the placeholders in the hooks of one instance.
pub(in crate::pool) struct HookValues {
    builtin: Vec<(&'static str, String)>,
    /// The random texts and the password of the database, which no log shows.
    random: BTreeMap<String, String>,
}

impl HookValues {
    /// Computes the values for the instance `id`, which visitors reach at `url` and `host`, and whose app connects to its
    /// database by `access`, if it has one.
    pub(in crate::pool) fn new(
        random_texts: &RandomTexts,
        hooks: &Hooks,
        id: &InstanceId,
        url: &str,
        host: &str,
        access: Option<&DatabaseAccess>,
    ) -> Self {
        let random = hooks.random.iter();
        let mut random: BTreeMap<String, String> =
            random.map(|(name, length)| (name.clone(), random_texts.text(id, name, *length))).collect();
        let mut builtin = vec![
            ("INSTANCE_ID", id.as_str().to_owned()),
            ("INSTANCE_URL", url.to_owned()),
            ("INSTANCE_HOST", host.to_owned()),
        ];
        if let Some(DatabaseAccess { host, port, name, user }) = access.cloned() {
            builtin.extend([
                ("DATABASE_HOST", host),
                ("DATABASE_PORT", port.to_string()),
                ("DATABASE_NAME", name),
                ("DATABASE_USER", user),
            ]);
            let (placeholder, derived_by) = DATABASE_PASSWORD;
            let password = random_texts.text(id, derived_by, DATABASE_PASSWORD_LENGTH);
            random.insert(placeholder.to_owned(), password);
        }
        Self { builtin, random }
    }

    /// Returns the password of the instance's database, if it has one.
    pub(super) fn database_password(&self) -> Option<Secret> {
        self.random.get(DATABASE_PASSWORD.0).map(Secret::new)
    }

    /// Returns what the instance runs: the template's app, with the variables for its own database.
    pub(super) fn app(&self, template: &Template) -> Arc<App> {
        let Some(database) = template.database.as_ref().filter(|database| !database.env.is_empty()) else {
            return template.app.clone();
        };
        let mut app = (*template.app).clone();
        app.env.extend(database.env.iter().map(|(name, text)| (name.clone(), self.fill(text))));
        Arc::new(app)
    }

    /// Returns the text with the values in place of its placeholders. Each placeholder has a value: the configuration
    /// was checked for that.
    pub(in crate::pool) fn fill(&self, text: &TemplateText) -> String {
        text.fill(|name| {
            let builtin = self.builtin.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
            builtin.or_else(|| self.random.get(name)).map(String::as_str)
        })
    }

    /// Returns the files that the instance gets before its app starts.
    ///
    /// A restore that fails falls back to a cold start. So a file that no instance can have, declared by mistake, makes
    /// all starts cold; each is logged.
    ///
    /// # Errors
    /// A file of this host that is to be copied cannot be read.
    pub(super) async fn files(&self, hooks: &Hooks) -> Result<Vec<InstanceFile>, HookError> {
        let mut files = Vec::with_capacity(hooks.files.len());
        for hook in &hooks.files {
            let content = match &hook.content {
                FileContent::Text(text) => self.fill(text).into(),
                FileContent::CopyOf { file } => {
                    tokio::fs::read(file).await.map(Bytes::from).map_err(|error| {
                        let what = format!("cannot read {}: {error}", file.display());
                        HookError { hook: hook.path.clone(), what }
                    })?
                }
            };
            files.push(InstanceFile { path: hook.path.clone(), content, mode: hook.mode, owner: hook.owner });
        }
        Ok(files)
    }

    /// Returns an app's output with the names of the random texts in place of the texts, so that it can be logged.
    fn redact(&self, output: &str) -> String {
        self.random
            .iter()
            .fold(output.to_owned(), |text, (name, value)| text.replace(value, &format!("{{{name}}}")))
    }
}

/// Sends the requests, then runs the commands. Stops at the first that fails.
pub(super) async fn run(
    calls: &HookCalls,
    values: &HookValues,
    target: AppTarget<'_>,
    start_request: &StartRequest,
) -> Result<(), HookError> {
    for hook in &calls.http {
        let failed = |what| HookError { hook: format!("{} {}", hook.method, hook.path.source()), what };
        send(hook, values, target).await.map_err(failed)?;
    }
    for hook in &calls.exec {
        let failed = |what| HookError { hook: hook.command[0].source().to_owned(), what };
        execute(hook, values, target.runtime, start_request).await.map_err(failed)?;
    }
    Ok(())
}

async fn send(hook: &HttpHook, values: &HookValues, target: AppTarget<'_>) -> Result<(), String> {
    let request = request(hook, values).map_err(|error| format!("is no valid request: {error}"))?;
    let status = match tokio::time::timeout(hook.timeout, readiness::send(target, request)).await {
        Ok(Ok(response)) => response.status(),
        Ok(Err(error)) => return Err(format!("got no answer: {error}")),
        Err(_) => return Err(too_slow(hook.timeout)),
    };
    match hook.status {
        Some(wanted) if wanted != status.as_u16() => {
            Err(format!("was answered with {}, not {wanted}", status.as_u16()))
        }
        None if !status.is_success() => Err(unexpected_status(status)),
        _ => Ok(()),
    }
}

fn unexpected_status(status: StatusCode) -> String {
    format!("was answered with {}; if that is right, declare it with `status`", status.as_u16())
}

fn too_slow(timeout: Duration) -> String {
    format!("took longer than {timeout:?}")
}

fn request(hook: &HttpHook, values: &HookValues) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in &hook.headers {
        let mut value = HeaderValue::try_from(values.fill(value))?;
        value.set_sensitive(true);
        headers.insert(HeaderName::try_from(name)?, value);
    }
    let body = Full::new(Bytes::from(values.fill(&hook.body)));
    let mut request = Request::builder()
        .method(Method::try_from(hook.method.as_str())?)
        .uri(values.fill(&hook.path))
        .body(body)?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn execute(
    hook: &ExecHook,
    values: &HookValues,
    runtime: &dyn Runtime,
    start_request: &StartRequest,
) -> Result<(), String> {
    let argv = hook.command.iter().map(|word| values.fill(word)).collect();
    let command = ExecCommand { argv, env: values.random.clone(), timeout: hook.timeout };
    let result = runtime.exec(start_request, command).await;
    let ran = result.map_err(|error| format!("could not be run: {}", values.redact(&error.to_string())))?;
    let what = match ran.status {
        Some(0) => return Ok(()),
        Some(status) => format!("ended with status {status}"),
        None => too_slow(hook.timeout),
    };
    let output = values.redact(&String::from_utf8_lossy(&ran.output));
    let output = output.trim();
    let from = output.char_indices().rev().nth(MAX_REPORTED_OUTPUT - 1).map_or(0, |(at, _)| at);
    let output = if output.is_empty() { "none" } else { &output[from..] };
    Err(format!("{what}; its last output: {output}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::TemplateName;
    use crate::template::hooks::FileHook;

    fn from_secret(secret: &str) -> RandomTexts {
        RandomTextSources::new(&NodeSecret::random(Secret::new(secret))).current
    }

    fn id() -> InstanceId {
        InstanceId::random(&TemplateName::new("t").unwrap())
    }

    #[test]
    fn random_texts_differ_between_instances_and_stay_the_same_for_one() {
        let (random_texts, a, b) = (from_secret("s"), id(), id());
        let text = random_texts.text(&a, "KEY", 100);
        assert_eq!(text.len(), 100);
        assert_eq!(text, random_texts.text(&a, "KEY", 100));
        assert_ne!(text, random_texts.text(&b, "KEY", 100));
        assert_ne!(text, random_texts.text(&a, "SALT", 100));
        assert_eq!(text, from_secret("s").text(&a, "KEY", 100));
        assert_ne!(text, from_secret("t").text(&a, "KEY", 100));
        assert!(!text[50..].contains(&text[..50]));
    }

    #[test]
    fn the_output_of_an_app_is_logged_without_the_random_texts() {
        let hooks = Hooks { random: [("KEY".to_owned(), 16)].into(), ..Hooks::default() };
        let values = HookValues::new(&from_secret("s"), &hooks, &id(), "http://a/", "a", None);
        let redacted = values.redact(&format!("-{}-", values.random["KEY"]));
        assert_eq!(redacted, "-{KEY}-");
    }

    #[tokio::test]
    async fn a_copied_file_has_the_bytes_that_it_has_now_and_a_missing_one_is_an_error() {
        let folder = std::env::temp_dir().join(format!("tin-hooks-{}", id()));
        std::fs::create_dir(&folder).unwrap();
        let copied = folder.join("own.zip");
        let content = FileContent::CopyOf { file: copied.clone() };
        let hook = FileHook { path: "/own.zip".to_owned(), content, mode: 0o640, owner: (7, 8) };
        let hooks = Hooks { files: vec![hook], ..Hooks::default() };
        let values = HookValues::new(&from_secret("s"), &hooks, &id(), "http://a/", "a", None);
        for bytes in [b"\xff\0{INSTANCE_ID}", b"\xfe\0{INSTANCE_ID}"] {
            std::fs::write(&copied, bytes).unwrap();
            let files = values.files(&hooks).await.unwrap();
            let path = "/own.zip".to_owned();
            let content = Bytes::from_static(bytes);
            assert_eq!(files, [InstanceFile { path, content, mode: 0o640, owner: (7, 8) }]);
        }
        std::fs::remove_dir_all(&folder).unwrap();
        let error = values.files(&hooks).await.unwrap_err().to_string();
        let begin = format!("the hook `/own.zip` cannot read {}: ", copied.display());
        assert!(error.starts_with(&begin), "{error}");
    }
}
