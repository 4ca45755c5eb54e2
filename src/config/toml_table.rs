//! Reading one table of a TOML file: each value typed, each mistake noted with its line.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{ConfigError, ConfigErrors};
use super::nearest::nearest;
use super::units::{SIZE_RULE, TIME_RULE, parse_duration, parse_size, show_duration};

/// Most characters of a bad value that a mistake shows.
const SHOWN: usize = 40;

/// A file being read, and what is wrong with it.
pub(super) struct Notes<'t> {
    file: &'t Path,
    text: &'t str,
    mistakes: RefCell<ConfigErrors>,
}

/// One table of the file. A key is known once it was asked for; [`Section::finish`] notes the unknown ones.
pub(super) struct TomlTable<'t> {
    notes: &'t Notes<'t>,
    /// The keys that lead to it, with dots between.
    path: String,
    /// Where the file names it.
    at: Range<usize>,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

/// A value under a key that only the file knows.
pub(super) enum Entry<'t> {
    Text(&'t str),
    Number(u64),
    Table(TomlTable<'t>),
    Other,
}

impl<'t> Notes<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Self { file, text, mistakes: RefCell::default() }
    }

    pub(super) fn wrong(
        &self,
        at: Option<Range<usize>>,
        key: impl Into<String>,
        wrong: impl Into<String>,
        right: impl Into<String>,
    ) {
        let line = at.map(|at| {
            let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
            before.iter().filter(|b| **b == b'\n').count() + 1
        });
        self.mistakes.borrow_mut().push(ConfigError::in_file(self.file, line, key, wrong, right));
    }

    pub(super) fn into_mistakes(self) -> ConfigErrors {
        self.mistakes.into_inner()
    }

    /// A value as the file has it, shortened, on one line.
    fn shown(&self, at: Range<usize>) -> String {
        let text = self.text.get(at).unwrap_or("");
        let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        if text.chars().nth(SHOWN).is_some() {
            shown.push_str("...");
        }
        shown.replace("\\\"", "\"")
    }
}

impl<'t> TomlTable<'t> {
    pub(super) fn root(notes: &'t Notes<'t>, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self { notes, path: String::new(), at: table.span(), table: table.get_ref(), known: Vec::new() }
    }

    /// The path of a key in this table, on one line whatever the key.
    fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key.escape_debug()) {
            ("", key) => key.to_string(),
            (path, _) if key.is_empty() => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Notes a mistake at a key, or where the table begins when it lacks the key.
    pub(super) fn wrong(&self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.notes.wrong(Some(self.place_of(key)), self.path_of(key), wrong, right);
    }

    /// Where the file names a key, or this table when it lacks the key.
    fn place_of(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or_else(|| self.at.clone(), |(name, _)| name.span())
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    fn cannot(&self, key: &str, value: &Spanned<DeValue<'_>>, right: impl Into<String>) {
        self.wrong(key, format!("{} cannot be used", self.notes.shown(value.span())), right);
    }

    /// Whether the key is there.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// A value that `read` takes, else `right` says what would be.
    fn read<T>(
        &mut self,
        key: &'static str,
        right: impl Into<String>,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            self.cannot(key, value, right);
        }
        found
    }

    /// A text that `read` takes.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        right: &str,
        read: impl FnOnce(&'t str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, right, |value| value.as_str().and_then(read))
    }

    /// A whole number in a range.
    pub(super) fn number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let right = format!("write a whole number from {least} to {most}");
        self.read(key, right, |value| whole(value).filter(|n| (least..=most).contains(n)))
    }

    /// A number, or a text, as `read` takes either of them.
    pub(super) fn number_or_word<T>(
        &mut self,
        key: &'static str,
        right: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, right, |value| match value.as_str() {
            Some(word) if word.starts_with(|c: char| c.is_ascii_digit()) => None,
            Some(word) => read(word),
            None => read(&whole(value)?.to_string()),
        })
    }

    /// A number in a range, with or without a fraction.
    pub(super) fn decimal(&mut self, key: &'static str, least: f64, most: f64) -> Option<f64> {
        self.read(key, format!("write a number from {least} to {most}"), |value| {
            let number = match value {
                DeValue::Float(float) => float.as_str().parse().ok(),
                value => whole(value).map(|n| n as f64),
            };
            number.filter(|n| (least..=most).contains(n))
        })
    }

    /// A time of at least `least`.
    pub(super) fn duration(&mut self, key: &'static str, least: Duration) -> Option<Duration> {
        let right = format!("{TIME_RULE}, in quotes, of at least {}", show_duration(least));
        self.text(key, &right, |text| parse_duration(text).filter(|time| *time >= least))
    }

    /// A size of at least one byte.
    pub(super) fn size(&mut self, key: &'static str) -> Option<u64> {
        self.read(key, format!("{SIZE_RULE}, in quotes"), |value| {
            value.as_str().map_or_else(|| whole(value), parse_size).filter(|bytes| *bytes > 0)
        })
    }

    /// A list of texts that `read` takes.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        right: &str,
        read: impl Fn(&'t str) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.read(key, right, |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.get_ref().as_str().and_then(&read)).collect()
        })
    }

    /// A text, or as `Err` a list of texts.
    pub(super) fn word_or_texts(
        &mut self,
        key: &'static str,
        right: &str,
    ) -> Option<Result<&'t str, Vec<&'t str>>> {
        self.read(key, right, |value| match value.as_str() {
            Some(word) => Some(Ok(word)),
            None => {
                let items = value.as_array()?.iter().map(|item| item.get_ref().as_str());
                items.collect::<Option<Vec<_>>>().map(Err)
            }
        })
    }

    /// A table of texts. `wrong_with` says what is wrong with a pair. Values are not shown: they may be secrets.
    pub(super) fn pairs(
        &mut self,
        key: &'static str,
        wrong_with: impl Fn(&str, &str) -> Option<&'static str>,
    ) -> BTreeMap<String, String> {
        let Some(section) = self.section(key) else { return BTreeMap::new() };
        let mut pairs = BTreeMap::new();
        for (name, value) in section.table {
            let wrong = match value.get_ref().as_str() {
                None => Some("its value is no text"),
                Some(text) => wrong_with(name.get_ref(), text),
            };
            match (wrong, value.get_ref().as_str()) {
                (None, Some(text)) => _ = pairs.insert(name.get_ref().to_string(), text.to_owned()),
                (wrong, _) => {
                    section.wrong(name.get_ref(), wrong.unwrap_or_default(), "write NAME = \"value\"");
                }
            }
        }
        pairs
    }

    /// A table in this one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<TomlTable<'t>> {
        let table =
            self.read(key, format!("write a table, [{}]", self.path_of(key)), |value| value.as_table())?;
        Some(self.inner(key, table))
    }

    fn inner(&self, key: &str, table: &'t DeTable<'t>) -> TomlTable<'t> {
        let (path, at) = (self.path_of(key), self.place_of(key));
        TomlTable { notes: self.notes, path, at, table, known: Vec::new() }
    }

    /// The tables in this one, by name, in the file's order; what is no table is noted.
    pub(super) fn sections(&self) -> Vec<(&'t str, TomlTable<'t>)> {
        let mut found = Vec::new();
        for (name, value) in self.table {
            let name = name.get_ref();
            match value.get_ref().as_table() {
                None => self.cannot(name, value, format!("write a table, [{}]", self.path_of(name))),
                Some(table) => found.push((name.as_ref(), self.inner(name, table))),
            }
        }
        found.sort_by_key(|(_, section)| section.at.start);
        found
    }

    /// A list of tables in this one, `[[like.this]]`; what is no table is noted.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<TomlTable<'t>> {
        let right = format!("write tables, [[{}]]", self.path_of(key));
        let Some(items) = self.read(key, right.as_str(), |value| value.as_array()) else { return Vec::new() };
        let mut found = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => found.push(TomlTable { at: item.span(), ..self.inner(key, table) }),
                None => self.cannot(key, item, right.as_str()),
            }
        }
        found
    }

    /// All that is in this table, in the file's order, whatever its keys. Nothing is noted.
    pub(super) fn entries(&self) -> Vec<(&'t str, Entry<'t>)> {
        let mut found: Vec<_> = self.table.iter().collect();
        found.sort_by_key(|(name, _)| name.span().start);
        let entry = |(name, value): (&'t Spanned<_>, &'t Spanned<DeValue<'t>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let value = value.get_ref();
            let entry = match (value.as_str(), value.as_table(), whole(value)) {
                (Some(text), ..) => Entry::Text(text),
                (_, Some(table), _) => Entry::Table(self.inner(name, table)),
                (.., Some(number)) => Entry::Number(number),
                _ => Entry::Other,
            };
            (name.as_ref(), entry)
        };
        found.into_iter().map(entry).collect()
    }

    /// Notes each key that nobody asked for.
    pub(super) fn finish(self) {
        for name in self.table.keys() {
            let name: &str = name.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let right = match nearest(name, self.known.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            self.wrong(name, "there is no such key", right);
        }
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
