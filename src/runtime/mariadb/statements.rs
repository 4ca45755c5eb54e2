//! Splits the text of a dump into statements, as the client program of MariaDB does.

/// Splits a dump that is given line by line. A statement ends at the delimiter outside of quotes and comments; a line
/// `DELIMITER x` changes that, which dumps do around triggers and routines.
#[derive(Debug)]
pub(super) struct StatementSplitter {
    delimiter: Vec<u8>,
    statement: Vec<u8>,
    /// Whether the statement has more than blanks and plain comments so far.
    has_content: bool,
    inside: Inside,
}

/// Where in a statement the end of the text so far is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Inside {
    Code,
    /// In quotes of this kind.
    Quotes(u8),
    Comment,
}

impl StatementSplitter {
    pub(super) fn new() -> Self {
        Self { delimiter: b";".to_vec(), statement: Vec::new(), has_content: false, inside: Inside::Code }
    }

    /// Reads the next line, with its end. Returns the statements that end in it, without their delimiters.
    pub(super) fn read_line(&mut self, line: &[u8]) -> Vec<Vec<u8>> {
        let mut ended = Vec::new();
        if !self.has_content && self.inside == Inside::Code && self.read_delimiter(line) {
            return ended;
        }
        let mut rest = line;
        while let Some(&byte) = rest.first() {
            let taken = match self.inside {
                Inside::Quotes(quote) => self.in_quotes(quote, rest),
                Inside::Comment if rest.starts_with(b"*/") => {
                    self.inside = Inside::Code;
                    2
                }
                Inside::Comment => 1,
                Inside::Code if rest.starts_with(&self.delimiter) => {
                    rest = &rest[self.delimiter.len()..];
                    ended.extend(self.end());
                    continue;
                }
                // The rest of the line says nothing to the server.
                Inside::Code if is_line_comment(rest) => {
                    self.statement.push(b'\n');
                    break;
                }
                Inside::Code => self.in_code(byte, rest),
            };
            self.statement.extend(&rest[..taken]);
            rest = &rest[taken..];
        }
        ended
    }

    /// Returns the last statement, if it has no delimiter.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        self.end()
    }

    fn end(&mut self) -> Option<Vec<u8>> {
        let statement = std::mem::take(&mut self.statement);
        std::mem::take(&mut self.has_content).then_some(statement)
    }

    fn read_delimiter(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii();
        let Some((word, rest)) = line.split_at_checked("DELIMITER".len()) else { return false };
        let wanted = rest.trim_ascii();
        let is_command = word.eq_ignore_ascii_case(b"DELIMITER") && rest.len() > wanted.len();
        if is_command && !wanted.is_empty() {
            self.delimiter = wanted.to_vec();
            self.statement.clear();
        }
        is_command
    }

    fn in_quotes(&mut self, quote: u8, rest: &[u8]) -> usize {
        match rest {
            [b'\\', _, ..] if quote != b'`' => 2,
            // A doubled quote ends the quotes and begins them again, which comes to the same.
            [byte, ..] => {
                if *byte == quote {
                    self.inside = Inside::Code;
                }
                1
            }
            [] => 0,
        }
    }

    fn in_code(&mut self, byte: u8, rest: &[u8]) -> usize {
        if matches!(byte, b'\'' | b'"' | b'`') {
            self.inside = Inside::Quotes(byte);
        } else if rest.starts_with(b"/*") {
            // MariaDB runs what is in `/*!` and `/*M!`.
            self.has_content |= rest.starts_with(b"/*!") || rest.starts_with(b"/*M!");
            self.inside = Inside::Comment;
            return 2;
        }
        self.has_content |= !byte.is_ascii_whitespace();
        1
    }
}

fn is_line_comment(rest: &[u8]) -> bool {
    match rest {
        [b'#', ..] => true,
        [b'-', b'-', after @ ..] => after.first().is_none_or(u8::is_ascii_whitespace),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<String> {
        let mut splitter = StatementSplitter::new();
        let mut all: Vec<Vec<u8>> =
            text.split_inclusive('\n').flat_map(|line| splitter.read_line(line.as_bytes())).collect();
        all.extend(splitter.finish());
        all.into_iter().map(|statement| String::from_utf8(statement).unwrap().trim().to_owned()).collect()
    }

    #[test]
    fn statements_end_at_delimiters_outside_of_quotes_and_comments() {
        assert_eq!(split("A;B ; C"), ["A", "B", "C"]);
        for whole in ["A 'x;y'", "A 'x\\';y'", "A 'x'';y'", "A \"x;\"", "A `x;\\`", "A /* ; */ B", "A 1--;"] {
            assert_eq!(split(&format!("{whole}\n;")), [whole.trim_end_matches(';')], "{whole}");
        }
        assert_eq!(split("A 'x\n;\ny';\nB;"), ["A 'x\n;\ny'", "B"]);
    }

    #[test]
    fn what_says_nothing_to_the_server_is_no_statement() {
        assert_eq!(split("-- MariaDB dump; of\n#x;\n/* ; */;\n;;\n  \n"), [] as [&str; 0]);
        assert_eq!(split("/*!40101 SET NAMES utf8mb4 */;\n-- x\n"), ["/*!40101 SET NAMES utf8mb4 */"]);
        assert_eq!(split("A; -- it's\nB;"), ["A", "B"]);
    }

    #[test]
    fn a_dump_with_triggers_changes_the_delimiter() {
        let dump = "DELIMITER ;;\n/*!50003 CREATE TRIGGER t BEGIN SET @a = 1; END */;;\ndelimiter ;\nA;\n";
        assert_eq!(split(dump), ["/*!50003 CREATE TRIGGER t BEGIN SET @a = 1; END */", "A"]);
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn any_text_in_quotes_stays_in_its_statement(text in "\\PC{0,40}") {
            let quoted = format!("A '{}'", text.replace('\\', "\\\\").replace('\'', "''"));
            prop_assert_eq!(split(&format!("{quoted};B;")), vec![quoted.trim().to_owned(), "B".to_owned()]);
        }
    }
}
