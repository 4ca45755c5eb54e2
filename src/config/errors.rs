//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong. Its `Display` is one line: where, what is wrong, what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that it is in, `None` for the environment.
    pub file: Option<PathBuf>,
    /// The line in that file, the first being 1, when it is known.
    pub line: Option<usize>,
    /// The name of a variable, or a key such as `templates.shop.ttl`; empty for a file as a whole.
    pub at: String,
    /// What is wrong. Never shows a secret.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

/// All that is wrong with a configuration, in the order found. One that is handed out has at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigError {
    /// A mistake in a variable of the environment.
    pub fn in_variable(name: &str, wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { file: None, line: None, at: name.to_owned(), wrong: wrong.into(), right: right.into() }
    }

    /// A mistake in a file: at a key, or (with an empty key) in the whole.
    pub fn in_file(
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        wrong: impl Into<String>,
        right: impl Into<String>,
    ) -> Self {
        Self { file: Some(file.to_owned()), line, at: key.into(), wrong: wrong.into(), right: right.into() }
    }
}

impl ConfigErrors {
    /// Adds one.
    pub fn push(&mut self, mistake: ConfigError) {
        self.0.push(mistake);
    }

    /// Adds a list.
    pub fn extend(&mut self, more: impl IntoIterator<Item = ConfigError>) {
        self.0.extend(more);
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` when nothing is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
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
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        write!(f, "{}; {}", self.wrong, self.right)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line_that_says_where_what_and_how_to_mend_it() {
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
}
