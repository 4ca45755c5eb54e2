//! Reads the source files and separates code, comments and texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file of `src/`, its tests left out.
pub(crate) struct Source {
    /// The path below `src/`.
    pub(crate) name: String,
    /// The file up to its inline tests.
    pub(crate) text: String,
    /// The text with comments removed and string literals emptied.
    pub(crate) code: String,
}

impl Source {
    /// Returns the module path: `pool/stats.rs` is `[pool, stats]`, `pool/mod.rs` is `[pool]`, `lib.rs` is `[]`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let path = self.name.strip_suffix(".rs").unwrap();
        path.split('/').filter(|part| !matches!(*part, "mod" | "lib")).collect()
    }
}

/// The part of a source file that a piece of it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    Code,
    Comment,
    Text,
}

/// Returns the root folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every file below `folder`, itself below the root, whose name ends in one of `endings`, in order.
pub(crate) fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    fn visit(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, endings, found);
            } else if endings.iter().any(|ending| path.to_str().unwrap().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    visit(&root().join(folder), endings, &mut found);
    found.sort();
    found
}

/// Returns all files of `src/` that are not tests.
pub(crate) fn sources() -> Vec<Source> {
    let all: BTreeMap<PathBuf, String> = files("src", &[".rs"])
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(&path).unwrap()))
        .collect();
    let tests: BTreeSet<PathBuf> = all.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test = |path: &Path| path.ancestors().any(|part| tests.contains(&part.with_extension("")));
    let src = root().join("src");
    all.iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| {
            let text = without_tests(text).to_owned();
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            Source { name, code: code_of(&text), text }
        })
        .collect()
}

/// Returns the modules that a file declares for tests only, as paths without an extension.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match path.file_stem().unwrap().to_str().unwrap() {
        "mod" | "lib" | "main" => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").filter_map(|pair| {
        let name = pair[1].split_once("mod ")?.1.strip_suffix(';')?;
        Some(folder.join(name))
    });
    declared.collect()
}

/// Returns a file up to its inline tests, which come last.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

/// Returns the code of a Rust file: comments removed, string and character literals emptied.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for (piece, part) in pieces(text) {
        match piece {
            Piece::Code => code.push_str(part),
            Piece::Comment => {}
            Piece::Text => code.push_str("\"\""),
        }
    }
    code
}

/// Splits a Rust file into code, comments and literals, in order.
pub(crate) fn pieces(text: &str) -> Vec<(Piece, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while let Some(next) = text[at..].find(['/', '"', '\'']) {
        at += next;
        let rest = &text[at..];
        let (piece, length) = if rest.starts_with("//") {
            (Piece::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (Piece::Comment, rest.find("*/").map_or(rest.len(), |end| end + 2))
        } else if rest.starts_with('"') {
            (Piece::Text, string_length(rest, &text[..at]))
        } else if rest.starts_with("'\\") {
            (Piece::Text, 2 + rest[3..].find('\'').unwrap() + 2)
        } else if rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
            (Piece::Text, 1 + rest.chars().nth(1).unwrap().len_utf8() + 1)
        } else {
            at += 1;
            continue;
        };
        found.push((Piece::Code, &text[begin..at]));
        found.push((piece, &rest[..length]));
        at += length;
        begin = at;
    }
    found.push((Piece::Code, &text[begin..]));
    found
}

/// Returns the length of the string literal at the front of `text`; `before` shows whether it is a raw one.
fn string_length(text: &str, before: &str) -> usize {
    let hashes = before.len() - before.trim_end_matches('#').len();
    if before[..before.len() - hashes].ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return 1 + text[1..].find(&end).unwrap() + end.len();
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Most lines of a file without its tests.
const MAX_LINES: usize = 400;

#[test]
fn no_file_is_too_long_to_read() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= MAX_LINES, "src/{} has {lines} lines; split it at {MAX_LINES}", source.name);
    }
}
