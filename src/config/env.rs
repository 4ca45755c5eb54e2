//! Reading variables: what is empty is not set, and a bad value is noted and replaced by its default.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::errors::{ConfigError, ConfigErrors};
use super::units::{TIME_RULE, parse_duration};

/// Variables by name, as the process was given them.
pub type Environment = BTreeMap<String, String>;

/// Reads one variable after the other and collects what is wrong.
pub(super) struct Variables<'e> {
    values: &'e Environment,
    pub(super) mistakes: ConfigErrors,
}

impl<'e> Variables<'e> {
    pub(super) fn new(values: &'e Environment) -> Self {
        Self { values, mistakes: ConfigErrors::default() }
    }

    /// The value without spaces around it, `None` when nothing is left.
    pub(super) fn text(&self, name: &str) -> Option<&'e str> {
        self.values.get(name).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    /// All names that are set.
    pub(super) fn names(&self) -> impl Iterator<Item = &'e str> {
        let values = self.values;
        values.keys().map(String::as_str)
    }

    pub(super) fn wrong(&mut self, name: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.mistakes.push(ConfigError::in_variable(name, wrong, right));
    }

    /// The value as `read` takes it. What `read` gives as its error says what would be right.
    pub(super) fn get<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(right) => {
                self.wrong(name, format!("{text:?} cannot be used"), right.to_string());
                None
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn number(&mut self, name: &str, least: u64, most: u64) -> Option<u64> {
        self.get(name, |text| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            let value = text.parse().ok().filter(|n| digits && (least..=most).contains(n));
            value.ok_or_else(|| format!("write a whole number from {least} to {most}"))
        })
    }

    /// A time of at least `least`.
    pub(super) fn duration(&mut self, name: &str, least: Duration) -> Option<Duration> {
        self.get(name, |text| match parse_duration(text) {
            Some(time) if time >= least => Ok(time),
            Some(_) => Err(format!("write a time of at least {}", super::units::show_duration(least))),
            None => Err(TIME_RULE.to_owned()),
        })
    }

    /// One of some words, in any case.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        self.get(name, |text| {
            let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("write one of {}", words.join(", "))
            })
        })
    }

    /// Several values, separated by commas. Empty ones are skipped.
    pub(super) fn list<T, E: Display>(
        &mut self,
        name: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let text = self.text(name)?;
        let mut values = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match read(part) {
                Ok(value) => values.push(value),
                Err(right) => self.wrong(name, format!("{part:?} cannot be used"), right.to_string()),
            }
        }
        Some(values)
    }
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
        assert_eq!(variables.number("A", 0, 9), None);
        assert_eq!(variables.number("B", 0, 9), None);
        assert_eq!(variables.number("C", 0, 9), Some(5));
        assert!(variables.mistakes.is_empty());
    }

    #[test]
    fn each_bad_value_is_noted_with_what_would_be_right() {
        let values = environment(&[("N", "+5"), ("T", "30"), ("S", "1s"), ("W", "loud"), ("L", "a,,B , c")]);
        let mut variables = Variables::new(&values);
        assert_eq!(variables.number("N", 1, 9), None);
        assert_eq!(variables.duration("T", Duration::ZERO), None);
        assert_eq!(variables.duration("S", Duration::from_secs(2)), None);
        assert_eq!(variables.word("W", &[("json", 1), ("text", 2)]), None);
        let list =
            variables.list("L", |s| if s == "B" { Err("write small letters") } else { Ok(s.to_owned()) });
        assert_eq!(list, Some(vec!["a".to_owned(), "c".to_owned()]));
        let lines = variables.mistakes.to_string();
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
}
