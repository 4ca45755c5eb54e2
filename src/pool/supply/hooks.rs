//! Hooks: what gives each copy of an app its own address, keys and passwords.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use ring::hmac;

use super::readiness;
use super::readiness::Target;
use crate::instance::InstanceId;
use crate::runtime::{Command, OwnFile, Runtime, StartRequest};
use crate::template::hooks::{Calls, ExecHook, HttpHook, TemplateText};
use crate::template::{Hooks, Secret};

/// Letters and digits that nobody mistakes for each other; five bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Most of a failed command's output that is told.
const MOST_TOLD: usize = 400;

/// A hook did not do what it was to do.
#[derive(Debug, thiserror::Error)]
#[error("the hook `{hook}` {what}")]
pub(crate) struct HookError {
    /// As the template has it: with placeholders, not with what they stand for.
    hook: String,
    what: String,
}

/// From which all random texts of this node's instances come. An instance's id, which no two have, gives those of one,
/// so that nothing but the node's secret needs to be kept to know them again.
pub(crate) struct Randomness(hmac::Key);

impl Randomness {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
    }

    fn text(&self, id: &InstanceId, name: &str, length: usize) -> String {
        let block = |number: u32| {
            // Neither an id nor a name has a space in it.
            let tag = hmac::sign(&self.0, format!("{id} {name} {number}").as_bytes());
            tag.as_ref().to_vec()
        };
        let bytes = (0..).flat_map(block);
        bytes.take(length).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
    }
}

/// What the placeholders in the hooks of one instance stand for.
pub(crate) struct Values {
    own: [(&'static str, String); 3],
    random: BTreeMap<String, String>,
}

impl Values {
    pub(crate) fn new(
        randomness: &Randomness,
        hooks: &Hooks,
        id: &InstanceId,
        url: &str,
        host: &str,
    ) -> Self {
        let random = hooks.random.iter();
        let random =
            random.map(|(name, length)| (name.clone(), randomness.text(id, name, *length))).collect();
        let own = [("INSTANCE_ID", id.as_str()), ("INSTANCE_URL", url), ("INSTANCE_HOST", host)];
        Self { own: own.map(|(name, value)| (name, value.to_owned())), random }
    }

    /// Each placeholder is known: the configuration has checked it.
    pub(crate) fn fill(&self, words: &TemplateText) -> String {
        words.fill(|name| {
            let own = self.own.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
            own.or_else(|| self.random.get(name)).map(String::as_str)
        })
    }

    /// The files of the instance that these are of.
    pub(crate) fn files(&self, hooks: &Hooks) -> Vec<OwnFile> {
        let file = |file: &crate::template::hooks::FileHook| OwnFile {
            path: file.path.clone(),
            content: self.fill(&file.text),
            mode: file.mode,
            owner: file.owner,
        };
        hooks.files.iter().map(file).collect()
    }

    /// A text of the app's making without the random texts, for a log.
    fn hide(&self, text: &str) -> String {
        self.random
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(value, &format!("{{{name}}}")))
    }
}

/// Makes the requests, then runs the commands; the first that fails is the last.
pub(crate) async fn run(
    calls: &Calls,
    values: &Values,
    target: Target<'_>,
    order: &StartRequest,
) -> Result<(), HookError> {
    for hook in &calls.http {
        let failed = |what| HookError { hook: format!("{} {}", hook.method, hook.path.source()), what };
        ask(hook, values, target).await.map_err(failed)?;
    }
    for hook in &calls.exec {
        let failed = |what| HookError { hook: hook.command[0].source().to_owned(), what };
        execute(hook, values, target.runtime, order).await.map_err(failed)?;
    }
    Ok(())
}

async fn ask(hook: &HttpHook, values: &Values, target: Target<'_>) -> Result<(), String> {
    let request = request(hook, values).map_err(|error| format!("is no request: {error}"))?;
    let status = match tokio::time::timeout(hook.timeout, readiness::ask(target, request)).await {
        Ok(Ok((status, _))) => status,
        Ok(Err(error)) => return Err(format!("got no answer: {error}")),
        Err(_) => return Err(too_slow(hook.timeout)),
    };
    match hook.status {
        Some(wanted) if wanted != status.as_u16() => {
            Err(format!("was answered with {}, not {wanted}", status.as_u16()))
        }
        None if !status.is_success() => Err(format!("was answered with {}", told(status))),
        _ => Ok(()),
    }
}

fn told(status: StatusCode) -> String {
    format!("{}; say so with `status` if that is right", status.as_u16())
}

fn too_slow(timeout: Duration) -> String {
    format!("took longer than {timeout:?}")
}

fn request(hook: &HttpHook, values: &Values) -> Result<Request<Full<Bytes>>, http::Error> {
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
    values: &Values,
    runtime: &dyn Runtime,
    order: &StartRequest,
) -> Result<(), String> {
    let words = hook.command.iter().map(|words| values.fill(words)).collect();
    let command = Command { words, env: values.random.clone(), timeout: hook.timeout };
    let ran = runtime.exec(order, command).await;
    let ran = ran.map_err(|error| format!("could not be run: {}", values.hide(&error.to_string())))?;
    let what = match ran.status {
        Some(0) => return Ok(()),
        Some(status) => format!("ended with status {status}"),
        None => too_slow(hook.timeout),
    };
    let output = values.hide(&String::from_utf8_lossy(&ran.output));
    let output = output.trim();
    let from = output.char_indices().rev().nth(MOST_TOLD - 1).map_or(0, |(at, _)| at);
    let output = if output.is_empty() { "none" } else { &output[from..] };
    Err(format!("{what}; its last output: {output}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::TemplateName;

    fn from(secret: &str) -> Randomness {
        Randomness::new(&Secret::new(secret))
    }

    fn id() -> InstanceId {
        InstanceId::random(&TemplateName::new("t").unwrap())
    }

    #[test]
    fn random_texts_are_an_instances_own_and_known_again() {
        let (randomness, a, b) = (from("s"), id(), id());
        let text = randomness.text(&a, "KEY", 100);
        assert_eq!(text.len(), 100);
        assert_eq!(text, randomness.text(&a, "KEY", 100));
        assert_ne!(text, randomness.text(&b, "KEY", 100));
        assert_ne!(text, randomness.text(&a, "SALT", 100));
        assert_eq!(text, from("s").text(&a, "KEY", 100));
        assert_ne!(text, from("t").text(&a, "KEY", 100));
        assert!(!text[50..].contains(&text[..50]));
    }

    #[test]
    fn what_an_app_says_is_told_without_the_random_texts() {
        let hooks = Hooks { random: [("KEY".to_owned(), 16)].into(), ..Hooks::default() };
        let values = Values::new(&from("s"), &hooks, &id(), "http://a/", "a");
        let told = values.hide(&format!("-{}-", values.random["KEY"]));
        assert_eq!(told, "-{KEY}-");
    }
}
