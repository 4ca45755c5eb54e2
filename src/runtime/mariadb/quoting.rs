//! How names and passwords are written into statements: the only place where a text becomes SQL.

/// Returns a name as an identifier in backquotes, for a table, a column, a database or a user. Any text without a NUL is
/// one identifier, whatever it contains.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Returns a database's name for `GRANT ... ON`, where `_` and `%` would stand for other characters.
pub(super) fn grant_pattern(name: &str) -> String {
    identifier(&name.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%"))
}

/// A password that needs no escaping, whatever SQL mode the server has.
pub(super) struct PlainPassword<'a>(&'a str);

impl<'a> PlainPassword<'a> {
    /// Returns the password; `None` unless it has letters and digits only, at least 16 of them.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        (text.len() >= 16 && text.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(Self(text))
    }

    /// Returns the password as a literal.
    pub(super) fn literal(&self) -> String {
        format!("'{}'", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads an identifier in backquotes as MariaDB's manual describes it: a doubled backquote is one, a single one ends
    /// it, and nothing else is special. Returns the name, if the text is one identifier to its end.
    fn read_identifier(sql: &str) -> Option<String> {
        let mut rest = sql.strip_prefix('`')?.chars();
        let mut name = String::new();
        loop {
            match rest.next()? {
                '`' => match rest.next() {
                    None => return Some(name),
                    Some('`') => name.push('`'),
                    Some(_) => return None,
                },
                other => name.push(other),
            }
        }
    }

    /// Returns whether a pattern of `GRANT` matches a name: `_` is any character, `%` any characters, and a backslash
    /// makes the next character plain.
    fn matches(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['\\', plain, rest @ ..] => name.first() == Some(plain) && matches(rest, &name[1..]),
            ['_', rest @ ..] => !name.is_empty() && matches(rest, &name[1..]),
            ['%', rest @ ..] => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
            [plain, rest @ ..] => name.first() == Some(plain) && matches(rest, &name[1..]),
        }
    }

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn any_text_is_one_identifier_and_reads_back(name in "(\\PC|[`'\"\\\\;%_\n-]){0,40}") {
            prop_assert_eq!(read_identifier(&identifier(&name)), Some(name));
        }

        #[test]
        fn a_grant_matches_its_own_name_and_no_other(name in "[ab_%\\\\`]{1,8}", other in "[ab_%\\\\`]{1,8}") {
            let pattern = chars(&read_identifier(&grant_pattern(&name)).unwrap());
            prop_assert!(matches(&pattern, &chars(&name)));
            prop_assert_eq!(matches(&pattern, &chars(&other)), name == other);
        }

        #[test]
        fn only_letters_and_digits_make_a_password(text in "\\PC{0,40}") {
            if let Some(password) = PlainPassword::new(&text) {
                prop_assert!(password.literal()[1..].strip_suffix('\'').unwrap().bytes().all(|b| b.is_ascii_alphanumeric()));
            }
        }
    }

    #[test]
    fn a_short_password_or_one_with_a_quote_is_refused() {
        assert!(PlainPassword::new("abcdefgh23456789").is_some());
        for refused in ["", "short", "abcdefgh2345678'", "abcdefgh2345678\\", "abcdefgh2345678é"] {
            assert!(PlainPassword::new(refused).is_none(), "{refused}");
        }
    }
}
