//! Reads environment variables. An empty value counts as not set, unless its reader asks for it. An invalid value is reported and replaced by the
//! default.
//!
//! [`Variables`] records the name, default and kind of each variable that it is asked for, so that the list of all
//! settings follows from the code that reads them.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::errors::{ConfigError, ConfigErrors};
use super::units::{SIZE_RULE, TIME_RULE, format_duration, parse_duration, parse_size};

/// Environment variables by name, as the process got them.
pub type Environment = BTreeMap<String, String>;

/// One environment variable that the program reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// The default as an operator would write it. `None` when there is no default, or when it depends on the host or on
    /// other settings.
    pub default: Option<String>,
    /// What kind of value the variable takes.
    pub kind: SettingKind,
    /// Whether an empty value differs from none.
    pub may_be_empty: bool,
}

/// The kind of value that a variable takes. Its `Display` is the word that the documentation uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingKind {
    /// A text with rules of its own, such as an address or a path.
    Text,
    /// A number without a unit.
    Number,
    /// A number, or this word.
    NumberOrWord(&'static str),
    /// A time such as `30s`; see [`parse_duration`].
    Time,
    /// A number of bytes such as `512M`; see [`parse_size`].
    Size,
    /// One of these words.
    Word(Vec<&'static str>),
    /// Texts with commas between them.
    List,
    /// A text that is never shown.
    Secret,
}

impl Display for SettingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text | Self::Secret => f.write_str("text"),
            Self::Number => f.write_str("number"),
            Self::NumberOrWord(word) => write!(f, "number or `{word}`"),
            Self::Time => f.write_str("time"),
            Self::Size => f.write_str("size"),
            Self::Word(words) => write!(f, "`{}`", words.join("`, `")),
            Self::List => f.write_str("list"),
        }
    }
}

/// Reads variables one after another, and collects errors and settings.
///
/// Each method comes in two forms. The one named `..._if_set` returns `None` for a variable that is not set or invalid;
/// its `default` is only recorded, because the caller combines the value with others first.
pub(super) struct Variables<'e> {
    values: &'e Environment,
    settings: Vec<Setting>,
    pub(super) errors: ConfigErrors,
}

impl<'e> Variables<'e> {
    pub(super) fn new(values: &'e Environment) -> Self {
        Self { values, settings: Vec::new(), errors: ConfigErrors::default() }
    }

    /// Returns all variables that were read so far, each once, in the order of reading.
    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    fn record(&mut self, name: &'static str, kind: SettingKind, default: Option<String>) {
        if self.settings.iter().all(|setting| setting.name != name) {
            self.settings.push(Setting { name, default, kind, may_be_empty: false });
        }
    }

    fn trimmed(&self, name: &str) -> Option<&'e str> {
        self.values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Returns whether a variable has a value. Does not count as reading it.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.trimmed(name).is_some()
    }

    /// Returns whether a variable, which was read before, is set to an empty value, which then differs from none.
    pub(super) fn is_set_empty(&mut self, name: &str) -> bool {
        if let Some(setting) = self.settings.iter_mut().find(|setting| setting.name == name) {
            setting.may_be_empty = true;
        }
        self.values.get(name).is_some_and(|value| value.trim().is_empty())
    }

    /// Returns the names of all variables that are set, also of those that the program does not read.
    pub(super) fn names(&self) -> impl Iterator<Item = &'e str> {
        let values = self.values;
        values.keys().map(String::as_str)
    }

    /// Reports an error in a variable.
    pub(super) fn report(&mut self, name: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.errors.push(ConfigError::in_variable(name, problem, remedy));
    }

    /// Reports a value that cannot be used.
    pub(super) fn report_value(&mut self, name: &str, value: &str, remedy: impl Display) {
        self.report(name, format!("{value:?} cannot be used"), remedy.to_string());
    }

    /// Returns a value without the spaces around it.
    pub(super) fn text(&mut self, name: &'static str) -> Option<&'e str> {
        self.record(name, SettingKind::Text, None);
        self.trimmed(name)
    }

    /// Returns a secret without the spaces around it.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<&'e str> {
        self.record(name, SettingKind::Secret, None);
        self.trimmed(name)
    }

    /// Returns the value that `read` accepts. The error of `read` is the remedy.
    pub(super) fn value_if_set<T, E: Display>(
        &mut self,
        name: &'static str,
        kind: SettingKind,
        default: Option<String>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.record(name, kind, default);
        let text = self.trimmed(name)?;
        read(text).map_err(|remedy| self.report_value(name, text, remedy)).ok()
    }

    /// Returns the value that `read` accepts, else what it makes of the default.
    pub(super) fn value<T, E: Display>(
        &mut self,
        name: &'static str,
        kind: SettingKind,
        default: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.value_if_set(name, kind, Some(default.to_owned()), &read).unwrap_or_else(|| {
            match read(default) {
                Ok(value) => value,
                Err(_) => unreachable!("the default of {name} is valid"),
            }
        })
    }

    /// Returns a whole number in a range.
    pub(super) fn number_if_set(
        &mut self,
        name: &'static str,
        default: Option<u64>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        self.value_if_set(name, SettingKind::Number, default.map(|number| number.to_string()), |text| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            let value = text.parse().ok().filter(|number| digits && range.contains(number));
            value.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// Returns a whole number in a range, else the default.
    pub(super) fn number(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.number_if_set(name, Some(default), range).unwrap_or(default)
    }

    /// Returns a time of at least `min`.
    pub(super) fn duration_if_set(
        &mut self,
        name: &'static str,
        default: Duration,
        min: Duration,
    ) -> Option<Duration> {
        self.value_if_set(
            name,
            SettingKind::Time,
            Some(format_duration(default)),
            |text| match parse_duration(text) {
                Some(time) if time >= min => Ok(time),
                Some(_) => Err(format!("write a time of at least {}", format_duration(min))),
                None => Err(TIME_RULE.to_owned()),
            },
        )
    }

    /// Returns a time of at least `min`, else the default.
    pub(super) fn duration(&mut self, name: &'static str, default: Duration, min: Duration) -> Duration {
        self.duration_if_set(name, default, min).unwrap_or(default)
    }

    /// Returns a number of bytes, which may be 0.
    pub(super) fn size_if_set(&mut self, name: &'static str) -> Option<u64> {
        self.value_if_set(name, SettingKind::Size, None, |text| {
            parse_size(text).ok_or_else(|| format!("{SIZE_RULE}, or 0"))
        })
    }

    /// Returns a number of bytes, more than 0.
    pub(super) fn size(&mut self, name: &'static str, default: &'static str) -> u64 {
        self.value(name, SettingKind::Size, default, |text| {
            parse_size(text).filter(|size| *size > 0).ok_or(SIZE_RULE)
        })
    }

    /// Returns what one of some words stands for. The case of letters does not matter. The default is one of the words.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        default: &'static str,
        words: &[(&'static str, T)],
    ) -> T {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let rule = format!("write one of {}", names.join(", "));
        self.value(name, SettingKind::Word(names), default, |text| {
            let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or(&rule)
        })
    }

    /// Returns several values, separated by commas. Empty values are skipped, and invalid ones are reported and
    /// skipped.
    pub(super) fn list_if_set<T, E: Display>(
        &mut self,
        name: &'static str,
        default: Option<&str>,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        self.record(name, SettingKind::List, default.map(str::to_owned));
        let text = self.trimmed(name)?;
        let (values, invalid) = read_list(text, read);
        for (part, remedy) in invalid {
            self.report_value(name, part, remedy);
        }
        Some(values)
    }

    /// Returns several values, separated by commas, else what `read` makes of the default.
    pub(super) fn list<T, E: Display>(
        &mut self,
        name: &'static str,
        default: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        self.list_if_set(name, Some(default), &read).unwrap_or_else(|| read_list(default, read).0)
    }
}

/// Returns the values that `read` accepts, and the others with their remedies.
fn read_list<T, E>(text: &str, read: impl Fn(&str) -> Result<T, E>) -> (Vec<T>, Vec<(&str, E)>) {
    let (mut values, mut invalid) = (Vec::new(), Vec::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match read(part) {
            Ok(value) => values.push(value),
            Err(remedy) => invalid.push((part, remedy)),
        }
    }
    (values, invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_empty_value_is_not_set() {
        let values = environment(&[("A", ""), ("B", "  "), ("C", " 5 ")]);
        let mut variables = Variables::new(&values);
        assert_eq!(variables.number_if_set("A", None, 0..=9), None);
        assert_eq!(variables.number_if_set("B", None, 0..=9), None);
        assert_eq!(variables.number_if_set("C", None, 0..=9), Some(5));
        assert!(variables.errors.is_empty());
    }

    #[test]
    fn each_invalid_value_is_reported_with_its_remedy_and_replaced_by_the_default() {
        let values = environment(&[("N", "+5"), ("T", "30"), ("S", "1s"), ("W", "loud"), ("L", "a,,B , c")]);
        let mut variables = Variables::new(&values);
        assert_eq!(variables.number_if_set("N", None, 1..=9), None);
        let hour = Duration::from_secs(3600);
        assert_eq!(variables.duration_if_set("T", hour, Duration::ZERO), None);
        assert_eq!(variables.duration_if_set("S", hour, Duration::from_secs(2)), None);
        assert_eq!(variables.word("W", "text", &[("json", 1), ("text", 2)]), 2);
        let list = variables
            .list_if_set("L", None, |s| if s == "B" { Err("write small letters") } else { Ok(s.to_owned()) });
        assert_eq!(list, Some(vec!["a".to_owned(), "c".to_owned()]));
        let lines = variables.errors.to_string();
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "N: \"+5\" cannot be used; write a whole number from 1 to 9",
                "T: \"30\" cannot be used; write a time such as 250ms, 30s, 10m, 1h or 1h30m",
                "S: \"1s\" cannot be used; write a time of at least 2s",
                "W: \"loud\" cannot be used; write one of json, text",
                "L: \"B\" cannot be used; write small letters",
            ]
        );
    }

    #[test]
    fn each_variable_is_recorded_once_with_its_default_and_kind() {
        let values = environment(&[("T", "5s")]);
        let mut variables = Variables::new(&values);
        assert_eq!(variables.duration("T", Duration::from_secs(30), Duration::ZERO), Duration::from_secs(5));
        assert_eq!(variables.list("L", "a,b", |part| Ok::<_, &str>(part.to_owned())), ["a", "b"]);
        variables.text("T");
        let settings: Vec<_> = variables.settings().iter().map(|setting| setting.name).collect();
        assert_eq!(settings, ["T", "L"]);
        let [time, list] = variables.settings() else { panic!() };
        assert_eq!((time.default.as_deref(), &time.kind), (Some("30s"), &SettingKind::Time));
        assert_eq!((list.default.as_deref(), &list.kind), (Some("a,b"), &SettingKind::List));
    }
}
