//! Reads one table of a TOML file: each value typed, each error reported with its line.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{ConfigError, ConfigErrors, nearest_name};
use super::units::{SIZE_RULE, TIME_RULE, format_duration, parse_duration, parse_size};

/// The most characters of an invalid value that an error shows.
const MAX_SHOWN: usize = 40;

/// A TOML file that is being read, and its errors so far.
pub(super) struct TomlFile<'t> {
    path: &'t Path,
    text: &'t str,
    errors: RefCell<ConfigErrors>,
}

/// One table of the file. A key counts as known once it was read; [`TomlTable::finish`] reports the unknown keys.
pub(super) struct TomlTable<'t> {
    file: &'t TomlFile<'t>,
    /// The keys that lead to the table, with dots between them.
    path: String,
    /// The position in the file that names the table.
    position: Range<usize>,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

/// A value whose key the file chooses.
pub(super) enum TomlEntry<'t> {
    Text(&'t str),
    Number(u64),
    Table(TomlTable<'t>),
    Other,
}

impl<'t> TomlFile<'t> {
    pub(super) fn new(path: &'t Path, text: &'t str) -> Self {
        Self { path, text, errors: RefCell::default() }
    }

    /// Reports an error at a position in the file.
    pub(super) fn report(
        &self,
        position: Option<Range<usize>>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let line = position.map(|position| {
            let before = &self.text.as_bytes()[..position.start.min(self.text.len())];
            before.iter().filter(|b| **b == b'\n').count() + 1
        });
        self.errors.borrow_mut().push(ConfigError::in_file(self.path, line, key, problem, remedy));
    }

    pub(super) fn into_errors(self) -> ConfigErrors {
        self.errors.into_inner()
    }

    /// Returns a value as the file has it, shortened and on one line.
    fn excerpt(&self, position: Range<usize>) -> String {
        let text = self.text.get(position).unwrap_or("");
        let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
        if text.chars().nth(MAX_SHOWN).is_some() {
            shown.push_str("...");
        }
        shown.replace("\\\"", "\"")
    }
}

impl<'t> TomlTable<'t> {
    pub(super) fn root(file: &'t TomlFile<'t>, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self { file, path: String::new(), position: table.span(), table: table.get_ref(), known: Vec::new() }
    }

    /// Returns the path of a key in this table, on one line whatever the key is.
    fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key.escape_debug()) {
            ("", key) => key.to_string(),
            (path, _) if key.is_empty() => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Reports an error at a key, or where the table begins when the table lacks the key.
    pub(super) fn report(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.file.report(Some(self.position_of(key)), self.path_of(key), problem, remedy);
    }

    /// Returns the position of a key, or that of this table when it lacks the key.
    fn position_of(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or_else(|| self.position.clone(), |(name, _)| name.span())
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    fn report_value(&self, key: &str, value: &Spanned<DeValue<'_>>, remedy: impl Into<String>) {
        self.report(key, format!("{} cannot be used", self.file.excerpt(value.span())), remedy);
    }

    /// Returns whether the table has a key.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Returns what `read` makes of a value. Where that is `None`, the value is reported.
    fn read<T>(
        &mut self,
        key: &'static str,
        remedy: impl Into<String>,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            self.report_value(key, value, remedy);
        }
        found
    }

    /// Returns a text that `read` accepts.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        read: impl FnOnce(&'t str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, remedy, |value| value.as_str().and_then(read))
    }

    /// Returns a whole number from `min` to `max`.
    pub(super) fn number(&mut self, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let remedy = format!("write a whole number from {min} to {max}");
        self.read(key, remedy, |value| whole_number(value).filter(|n| (min..=max).contains(n)))
    }

    /// Returns a number or a text that `read` accepts.
    pub(super) fn number_or_word<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, remedy, |value| match value.as_str() {
            Some(word) if word.starts_with(|c: char| c.is_ascii_digit()) => None,
            Some(word) => read(word),
            None => read(&whole_number(value)?.to_string()),
        })
    }

    /// Returns a number from `min` to `max`, with or without a fraction.
    pub(super) fn decimal(&mut self, key: &'static str, min: f64, max: f64) -> Option<f64> {
        self.read(key, format!("write a number from {min} to {max}"), |value| {
            let number = match value {
                DeValue::Float(float) => float.as_str().parse().ok(),
                value => whole_number(value).map(|n| n as f64),
            };
            number.filter(|n| (min..=max).contains(n))
        })
    }

    /// Returns a time of at least `min`.
    pub(super) fn duration(&mut self, key: &'static str, min: Duration) -> Option<Duration> {
        let remedy = format!("{TIME_RULE}, in quotes, of at least {}", format_duration(min));
        self.text(key, &remedy, |text| parse_duration(text).filter(|time| *time >= min))
    }

    /// Returns a size of at least one byte.
    pub(super) fn size(&mut self, key: &'static str) -> Option<u64> {
        self.read(key, format!("{SIZE_RULE}, in quotes"), |value| {
            value.as_str().map_or_else(|| whole_number(value), parse_size).filter(|bytes| *bytes > 0)
        })
    }

    /// Returns a list of texts that `read` accepts.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        read: impl Fn(&'t str) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.read(key, remedy, |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.get_ref().as_str().and_then(&read)).collect()
        })
    }

    /// Returns a text, or as `Err` a list of texts.
    pub(super) fn word_or_texts(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Result<&'t str, Vec<&'t str>>> {
        self.read(key, remedy, |value| match value.as_str() {
            Some(word) => Some(Ok(word)),
            None => {
                let items = value.as_array()?.iter().map(|item| item.get_ref().as_str());
                items.collect::<Option<Vec<_>>>().map(Err)
            }
        })
    }

    /// Returns a table of texts. `problem` says what is wrong with a pair, if anything. Values are not shown in errors,
    /// because they may be secrets.
    pub(super) fn pairs(
        &mut self,
        key: &'static str,
        problem: impl Fn(&str, &str) -> Option<&'static str>,
    ) -> BTreeMap<String, String> {
        let Some(table) = self.table(key) else { return BTreeMap::new() };
        let mut pairs = BTreeMap::new();
        for (name, value) in table.table {
            let text = value.get_ref().as_str();
            let problem = match text {
                None => Some("its value is no text"),
                Some(text) => problem(name.get_ref(), text),
            };
            match (problem, text) {
                (None, Some(text)) => _ = pairs.insert(name.get_ref().to_string(), text.to_owned()),
                (problem, _) => {
                    table.report(name.get_ref(), problem.unwrap_or_default(), "write NAME = \"value\"");
                }
            }
        }
        pairs
    }

    /// Returns a table in this table.
    pub(super) fn table(&mut self, key: &'static str) -> Option<TomlTable<'t>> {
        let table =
            self.read(key, format!("write a table, [{}]", self.path_of(key)), |value| value.as_table())?;
        Some(self.inner(key, table))
    }

    fn inner(&self, key: &str, table: &'t DeTable<'t>) -> TomlTable<'t> {
        let (path, position) = (self.path_of(key), self.position_of(key));
        TomlTable { file: self.file, path, position, table, known: Vec::new() }
    }

    /// Returns all tables in this table by name, in the file's order. Values that are no tables are reported.
    pub(super) fn tables(&self) -> Vec<(&'t str, TomlTable<'t>)> {
        let mut found = Vec::new();
        for (name, value) in self.table {
            let name = name.get_ref();
            match value.get_ref().as_table() {
                None => self.report_value(name, value, format!("write a table, [{}]", self.path_of(name))),
                Some(table) => found.push((name.as_ref(), self.inner(name, table))),
            }
        }
        found.sort_by_key(|(_, table)| table.position.start);
        found
    }

    /// Returns a list of tables in this table, `[[like.this]]`. Items that are no tables are reported.
    pub(super) fn table_list(&mut self, key: &'static str) -> Vec<TomlTable<'t>> {
        let remedy = format!("write tables, [[{}]]", self.path_of(key));
        let Some(items) = self.read(key, remedy.as_str(), |value| value.as_array()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => found.push(TomlTable { position: item.span(), ..self.inner(key, table) }),
                None => self.report_value(key, item, remedy.as_str()),
            }
        }
        found
    }

    /// Returns all keys and values of this table in the file's order. Nothing is reported.
    pub(super) fn entries(&self) -> Vec<(&'t str, TomlEntry<'t>)> {
        let mut found: Vec<_> = self.table.iter().collect();
        found.sort_by_key(|(name, _)| name.span().start);
        let entry = |(name, value): (&'t Spanned<_>, &'t Spanned<DeValue<'t>>)| {
            let name: &Cow<'_, str> = name.get_ref();
            let value = value.get_ref();
            let entry = match (value.as_str(), value.as_table(), whole_number(value)) {
                (Some(text), ..) => TomlEntry::Text(text),
                (_, Some(table), _) => TomlEntry::Table(self.inner(name, table)),
                (.., Some(number)) => TomlEntry::Number(number),
                _ => TomlEntry::Other,
            };
            (name.as_ref(), entry)
        };
        found.into_iter().map(entry).collect()
    }

    /// Reports each key that was not read.
    pub(super) fn finish(self) {
        for name in self.table.keys() {
            let name: &str = name.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let remedy = match nearest_name(name, self.known.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            self.report(name, "there is no such key", remedy);
        }
    }
}

fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
