//! The errors of a configuration, reported all at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// One error in the configuration. Its `Display` is one line: the place, the problem and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file with the error; `None` for the environment.
    pub file: Option<PathBuf>,
    /// The line in that file, counted from 1, when it is known.
    pub line: Option<usize>,
    /// The name of a variable, or a key such as `templates.shop.ttl`; empty for a file as a whole.
    pub key: String,
    /// The problem. It never shows a secret.
    pub problem: String,
    /// What to write or to do instead.
    pub remedy: String,
}

/// All errors of a configuration, in the order of reading. As an error value it has at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigError {
    /// Returns an error in an environment variable.
    pub fn in_variable(name: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: None, line: None, key: name.to_owned(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Returns an error in a file: at a key, or (with an empty key) in the file as a whole.
    pub fn in_file(
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            file: Some(file.to_owned()),
            line,
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl ConfigErrors {
    /// Adds an error.
    pub fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    /// Adds several errors.
    pub fn extend(&mut self, more: impl IntoIterator<Item = ConfigError>) {
        self.0.extend(more);
    }

    /// Iterates over the errors.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// Returns the number of errors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is no error.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `value` when there is no error.
    ///
    /// # Errors
    /// All errors.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl IntoIterator for ConfigErrors {
    type Item = ConfigError;
    type IntoIter = std::vec::IntoIter<ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Returns the known name that was probably meant: the one with the fewest insertions, deletions and replacements of a
/// character, at most a third of the written name's length.
pub(super) fn nearest_name<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let max_changes = (written.chars().count() / 3).max(1);
    let candidates = known.into_iter().map(|name| (strsim::levenshtein(written, name), name));
    candidates.min().filter(|(changes, _)| *changes <= max_changes).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_place_problem_and_remedy() {
        let variable = ConfigError::in_variable("POOL_MAX_SIZE", "\"x\" is no number", "write one");
        assert_eq!(variable.to_string(), "POOL_MAX_SIZE: \"x\" is no number; write one");
        let file = ConfigError::in_file(Path::new("a.toml"), Some(3), "templates.shop.ttl", "bad", "good");
        assert_eq!(file.to_string(), "a.toml:3: templates.shop.ttl: bad; good");
        let whole = ConfigError::in_file(Path::new("a.toml"), None, "", "unreadable", "check the path");
        assert_eq!(whole.to_string(), "a.toml: unreadable; check the path");
        let mut both = ConfigErrors::default();
        both.extend([variable, file]);
        assert_eq!(both.to_string().lines().count(), both.len());
    }

    #[test]
    fn the_nearest_name_is_suggested_when_it_is_near_enough() {
        let known = ["ttl", "max_ttl", "warm_up", "admin_path"];
        assert_eq!(nearest_name("warmup", known), Some("warm_up"));
        assert_eq!(nearest_name("admin-path", known), Some("admin_path"));
        assert_eq!(nearest_name("tll", known), Some("ttl"));
        assert_eq!(nearest_name("colour", known), None);
        assert_eq!(nearest_name("", []), None);
    }
}
