//! Hooks: what gives each copy of an app its own address, keys and passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

/// The placeholders that every hook may have, beside the names of random texts.
pub const OWN: [&str; 3] = ["INSTANCE_ID", "INSTANCE_URL", "INSTANCE_HOST"];

/// What is done to an instance before it counts as ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// The random texts, by the name of their placeholder, and how many characters each has. Every instance has texts
    /// of its own, and they are the same in all of its hooks.
    pub random: BTreeMap<String, usize>,
    /// Files in the instance's own layer, there before its first process is.
    pub files: Vec<FileHook>,
    /// What is asked of its app and run in it, once that answers.
    pub calls: Calls,
    /// What is asked and run once after a warm-up: before the instance is frozen that others are copied from, and in
    /// those that are started cold.
    pub bake: Calls,
    /// What the visitor is told to log in with.
    pub credentials: Option<TemplateText>,
}

/// Requests, then commands, each in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Requests to the app.
    pub http: Vec<HttpHook>,
    /// Commands beside the app.
    pub exec: Vec<ExecHook>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHook {
    /// Absolute, with neither `.` nor `..` nor an empty part.
    pub path: String,
    /// What is in it.
    pub text: TemplateText,
    /// Its permissions.
    pub mode: u32,
    /// Whose it is, by number: user and group.
    pub owner: (u32, u32),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpHook {
    /// A method that [`http::Method`] takes.
    pub method: String,
    /// Path and query; begins with a slash.
    pub path: TemplateText,
    /// Names and values that [`http::HeaderMap`] takes.
    pub headers: BTreeMap<String, TemplateText>,
    /// Empty for none.
    pub body: TemplateText,
    /// The answer's status; `None` for any from 200 to 299.
    pub status: Option<u16>,
    /// Time for the whole answer.
    pub timeout: Duration,
}

/// A command. Only its success, status 0, lets the instance count as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecHook {
    /// Program and arguments; never empty.
    pub command: Vec<TemplateText>,
    /// Time for it to end.
    pub timeout: Duration,
}

/// A text with placeholders: names in braces, of capital letters, digits and underscores, such as `{INSTANCE_URL}`.
/// Other braces are only braces, and after a `$` they are a shell's.
///
/// Its `Debug` does not show it: an operator may have written a secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TemplateText(String);

impl fmt::Debug for TemplateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(..)")
    }
}

impl TemplateText {
    /// Takes a text.
    ///
    /// # Errors
    /// A placeholder that `is_known` does not know, without its braces.
    pub fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Result<Self, &str> {
        match placeholders(text).find(|at| !is_known(&text[at.clone()])) {
            Some(unknown) => Err(&text[unknown]),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The text with each placeholder replaced by what `value` has for it.
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

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.0
    }
}

/// Where the names of placeholders are, without their braces.
fn placeholders(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('{').filter_map(|(brace, _)| {
        let name = brace + 1..brace + 1 + text[brace + 1..].find('}')?;
        let is_of_a_shell = text[..brace].ends_with('$');
        (!is_of_a_shell && is_placeholder(&text[name.clone()])).then_some(name)
    })
}

/// Whether it can be the name of a placeholder.
pub(crate) fn is_placeholder(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str) -> String {
        let words = TemplateText::parse(text, |name| name == "A" || name == "B_2").unwrap();
        words.fill(|name| Some(if name == "A" { "{B_2}" } else { "two" }))
    }

    #[test]
    fn names_in_braces_are_replaced_and_what_they_stand_for_is_not_looked_at_again() {
        assert_eq!(filled("{A}"), "{B_2}");
        assert_eq!(filled("a {A}{B_2} z"), "a {B_2}two z");
        assert_eq!(filled("é{B_2}é"), "étwoé");
    }

    #[test]
    fn other_braces_are_only_braces() {
        for text in ["{", "}", "{}", "{a}", "{ A }", "{\"A\": 1}", "${A}", "a${UNKNOWN}", "{2}", "{{"] {
            assert_eq!(filled(text), text);
        }
        assert_eq!(filled("{\"a\": \"{B_2}\"}"), "{\"a\": \"two\"}");
        assert_eq!(filled("{{B_2}}"), "{two}");
    }

    #[test]
    fn an_unknown_name_is_told() {
        assert_eq!(TemplateText::parse("{A} {C}", |name| name == "A"), Err("C"));
    }

    #[test]
    fn a_text_is_not_printed() {
        let words = TemplateText::parse("hunter2", |_| false).unwrap();
        assert_eq!(format!("{words:?}"), "Words(..)");
    }

    proptest! {
        #[test]
        fn no_text_makes_filling_panic(text in "[{}$A-Cé ]{0,20}") {
            if let Ok(words) = TemplateText::parse(&text, |name| name != "C") {
                let _ = words.fill(|name| (name == "A").then_some("x"));
            }
        }
    }
}
