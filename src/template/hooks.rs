//! Hooks: what gives each instance of a template its own address, keys and passwords.
//!
//! Instances that are restored from one checkpoint begin with the same memory, and so with the same keys and passwords.
//! Hooks change that before an instance counts as ready.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// The placeholders that every hook may use, in addition to the names of random texts.
pub const INSTANCE_PLACEHOLDERS: [&str; 3] = ["INSTANCE_ID", "INSTANCE_URL", "INSTANCE_HOST"];

/// What is done to an instance before it counts as ready. Its JSON is part of the template's
/// [revision](super::Template::revision).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// The random texts: the name of the placeholder and the number of characters. Each instance has its own texts, and
    /// all hooks of an instance see the same ones.
    ///
    /// The texts are not stored. They are derived from the instance's id and a secret: the node's `secret` file with
    /// the embedded store, else the secret that all nodes share. Without that secret no instance can be made.
    pub random: BTreeMap<String, usize>,
    /// Files in the instance's writable layer. They exist before its first process runs.
    pub files: Vec<FileHook>,
    /// Requests to the app and commands in the instance, once the app answers.
    pub calls: HookCalls,
    /// Requests and commands after the warm-up of a bake, before the checkpoint is made; and after the warm-up of each
    /// cold start.
    pub bake: HookCalls,
    /// What the visitor logs in with. The API and the front page show it.
    pub credentials: Option<TemplateText>,
}

/// Requests, then commands, each in the order of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HookCalls {
    /// Requests to the app.
    pub http: Vec<HttpHook>,
    /// Commands that run beside the app.
    pub exec: Vec<ExecHook>,
}

/// A file in an instance's writable layer.
///
/// When a file cannot be written, the restore fails and a cold start follows. So a file hook that never works makes all
/// starts cold, each with an error in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHook {
    /// The absolute path, without `.`, `..` and empty parts.
    pub path: String,
    /// The content.
    #[serde(rename = "text")]
    pub content: FileContent,
    /// The permission bits.
    pub mode: u32,
    /// The numbers of the owning user and group.
    pub owner: (u32, u32),
}

/// The content of a file hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FileContent {
    /// A text with the instance's own values.
    Text(TemplateText),
    /// The bytes of a file on this host, the same for all instances. It is read when an instance is made, so a changed
    /// file has an effect on instances that are made from then on.
    CopyOf {
        /// The path of the file.
        file: PathBuf,
    },
}

/// A request to the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpHook {
    /// A method that [`http::Method`] accepts.
    pub method: String,
    /// Path and query; begins with a slash.
    pub path: TemplateText,
    /// Names and values that [`http::HeaderMap`] accepts.
    pub headers: BTreeMap<String, TemplateText>,
    /// The body; empty means none.
    pub body: TemplateText,
    /// The expected status; `None` accepts any from 200 to 299.
    pub status: Option<u16>,
    /// The deadline of the whole answer.
    pub timeout: Duration,
}

/// A command in an instance. The instance counts as ready only if the command exits with status 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecHook {
    /// Program and arguments; never empty.
    pub command: Vec<TemplateText>,
    /// The deadline of the command.
    pub timeout: Duration,
}

/// A text with placeholders: names of capital letters, digits and underscores in braces, such as `{INSTANCE_URL}`.
/// Other braces are plain characters, and so are braces after a `$`, which a shell may interpret.
///
/// Its `Debug` does not show the text, because an operator may have written a secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TemplateText(String);

impl fmt::Debug for TemplateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TemplateText(..)")
    }
}

impl TemplateText {
    /// Checks the placeholders of a text.
    ///
    /// # Errors
    /// The first placeholder for which `is_known` is false, without its braces.
    pub fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Result<Self, &str> {
        match placeholders(text).find(|at| !is_known(&text[at.clone()])) {
            Some(unknown) => Err(&text[unknown]),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// Returns the text with each placeholder replaced by its `value`. A placeholder without a value stays as it is.
    /// Values are not searched for placeholders.
    pub fn fill<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> String {
        let mut filled = String::with_capacity(self.0.len());
        let mut done = 0;
        for at in placeholders(&self.0) {
            if let Some(value) = value(&self.0[at.clone()]) {
                filled.push_str(&self.0[done..at.start - 1]);
                filled.push_str(value);
                done = at.end + 1;
            }
        }
        filled.push_str(&self.0[done..]);
        filled
    }

    /// Returns the text as the operator wrote it.
    pub fn source(&self) -> &str {
        &self.0
    }
}

/// The byte ranges of the placeholders' names, without their braces.
fn placeholders(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('{').filter_map(|(brace, _)| {
        let name = brace + 1..brace + 1 + text[brace + 1..].find('}')?;
        let is_shell_variable = text[..brace].ends_with('$');
        (!is_shell_variable && is_placeholder(&text[name.clone()])).then_some(name)
    })
}

/// Returns whether a name can be that of a placeholder.
pub(crate) fn is_placeholder(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str) -> String {
        let text = TemplateText::parse(text, |name| name == "A" || name == "B_2").unwrap();
        text.fill(|name| Some(if name == "A" { "{B_2}" } else { "two" }))
    }

    #[test]
    fn placeholders_are_replaced_and_their_values_are_not_searched_again() {
        assert_eq!(filled("{A}"), "{B_2}");
        assert_eq!(filled("a {A}{B_2} z"), "a {B_2}two z");
        assert_eq!(filled("é{B_2}é"), "étwoé");
    }

    #[test]
    fn other_braces_are_plain_characters() {
        for text in ["{", "}", "{}", "{a}", "{ A }", "{\"A\": 1}", "${A}", "a${UNKNOWN}", "{2}", "{{"] {
            assert_eq!(filled(text), text);
        }
        assert_eq!(filled("{\"a\": \"{B_2}\"}"), "{\"a\": \"two\"}");
        assert_eq!(filled("{{B_2}}"), "{two}");
    }

    #[test]
    fn an_unknown_placeholder_is_refused() {
        assert_eq!(TemplateText::parse("{A} {C}", |name| name == "A"), Err("C"));
    }

    #[test]
    fn debug_does_not_show_the_text() {
        let text = TemplateText::parse("hunter2", |_| false).unwrap();
        assert_eq!(format!("{text:?}"), "TemplateText(..)");
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_text_makes_filling_panic(text in "[{}$A-Cé ]{0,20}") {
            if let Ok(template_text) = TemplateText::parse(&text, |name| name != "C") {
                let _ = template_text.fill(|name| (name == "A").then_some("x"));
            }
        }
    }
}
