//! Plain words: one word for one thing, in comments, log lines, error texts and documents.

use std::fs;
use std::path::Path;

use super::sources::{Piece, files, pieces, root};

/// Words that must not be used, and what to write instead. Each entry is a phrase in lower case; it matches whole words.
const FORBIDDEN: &[(&str, &str)] = &[
    ("whoever", "name the subject: the client, the caller, the node"),
    ("whomever", "name the subject"),
    ("nobody", "name the subject: no client, no visitor, no process"),
    ("somebody", "name the subject: a client, a visitor, an operator"),
    ("anybody", "name the subject"),
    ("everybody", "name the subject"),
    ("amiss", "wrong, invalid, a problem"),
    ("mishap", "failure, error"),
    ("by and by", "gradually, later"),
    ("in hand", "assigned, in flight, held by a task"),
    ("at hand", "available, local"),
    ("told", "logged, sent, reported, notified"),
    ("tells", "reports, sends, logs"),
    ("buried", "evicted"),
    ("bury", "evict"),
    ("breathe", "yield"),
    ("heed", "merge, accept"),
    ("heeds", "merges, accepts"),
    ("look after", "name the action"),
    ("looks after", "name the action"),
    ("see to", "name the action"),
    ("sees to", "name the action"),
    ("vouch", "verify"),
    ("vouched", "verified"),
    ("vouches", "verifies"),
    ("golden", "checkpoint"),
    ("roster", "nodes, membership"),
    ("handed out", "assigned"),
    ("hands out", "assigns"),
    ("taken back", "undone (a claim), released (an instance)"),
    ("what is left", "name it: remaining processes, leftover files"),
    ("nothing of it", "name it: no process, no file"),
    ("in the making", "warming"),
    ("in the way", "name the obstacle"),
    ("shelf", "table"),
    ("passed on", "forwarded (a request); passed (a value)"),
    ("passes on", "forwards"),
    ("under way", "in flight, in progress"),
    ("given up", "abandoned (an attempt); discarded (memory)"),
    ("gives up", "abandons (an attempt); discards (memory)"),
];

/// Whole doc comments that say nothing by themselves.
const EMPTY_DOCS: [&str; 4] = ["/// The same.", "/// See the module.", "/// Its name.", "/// See above."];

/// Returns the forbidden phrases of a text. A hyphen, a letter, a digit or an underscore at either end makes it another word.
fn forbidden(text: &str) -> Vec<(&'static str, &'static str)> {
    let text = text.to_lowercase();
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let has = |phrase: &str| {
        text.match_indices(phrase).any(|(at, _)| {
            !text[..at].chars().next_back().is_some_and(is_word)
                && !text[at + phrase.len()..].chars().next().is_some_and(is_word)
        })
    };
    FORBIDDEN.iter().filter(|(phrase, _)| has(phrase)).copied().collect()
}

/// Describes every forbidden phrase of a text as one line.
fn report(path: &Path, line: usize, text: &str, wrong: &mut Vec<String>) {
    let name = path.strip_prefix(root()).unwrap().display();
    for (phrase, instead) in forbidden(text) {
        wrong.push(format!("{name}:{line}: \"{phrase}\" -> {instead}"));
    }
}

/// Joins comment lines that follow each other, so that a phrase over two lines is found, and reports each block.
fn check_rust(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let (mut line, mut block, mut block_line) = (1, String::new(), 1);
    for (piece, part) in pieces(text) {
        match piece {
            Piece::Comment => {
                if block.is_empty() {
                    block_line = line;
                }
                block.push_str(part.trim_start_matches(['/', '!']).trim());
                block.push(' ');
            }
            // A literal of one word is a name, such as a file on disk, and no sentence.
            Piece::Text if part.contains(' ') => report(path, line, part, wrong),
            Piece::Text | Piece::Code => {}
        }
        if piece != Piece::Comment && !part.trim().is_empty() && !block.is_empty() {
            report(path, block_line, &block, wrong);
            block.clear();
        }
        line += part.matches('\n').count();
    }
    report(path, block_line, &block, wrong);
    for (at, source_line) in text.lines().enumerate() {
        if EMPTY_DOCS.contains(&source_line.trim()) {
            wrong.push(format!("{}:{}: a doc comment must stand alone", path.display(), at + 1));
        }
    }
}

/// Reads the paragraphs of a document, a script or a settings file.
fn check_plain(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let mut line = 1;
    for paragraph in text.split("\n\n") {
        let joined =
            paragraph.lines().map(|line| line.trim_start_matches(['#', '-', ' '])).collect::<Vec<_>>();
        report(path, line, &joined.join(" "), wrong);
        line += paragraph.matches('\n').count() + 2;
    }
}

#[test]
fn comments_and_texts_use_plain_words() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "perf", "benches"] {
        for path in files(folder, &[".rs"]) {
            // This file has to name the words.
            if !path.ends_with("structure/words.rs") {
                check_rust(&path, &fs::read_to_string(&path).unwrap(), &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} places", wrong.join("\n"), wrong.len());
}

#[test]
fn documents_and_scripts_use_plain_words() {
    let mut wrong = Vec::new();
    let mut paths = files("docs", &[".md"]);
    paths.extend(files("perf", &[".md"]));
    paths.extend(files(
        "deployments",
        &[
            ".toml",
            ".sh",
            "up",
            "down",
            "install",
            "enter",
            "build",
            ".yaml",
            ".cfg",
            ".conf",
            "root",
            "cross",
            "pack",
            "postinst",
            "prerm",
            "postrm",
            "Dockerfile",
        ],
    ));
    paths.extend(files("src", &[".lua", ".html", ".js", ".css"]));
    paths.extend(
        ["README.md", "CLAUDE.md", "CHANGELOG.md", "Makefile", ".ci/run"].map(|name| root().join(name)),
    );
    for path in paths {
        check_plain(&path, &fs::read_to_string(&path).unwrap(), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}\n{} places", wrong.join("\n"), wrong.len());
}

#[test]
fn whole_words_are_found_over_line_ends_and_parts_of_words_are_not() {
    assert_eq!(forbidden("The client is Told so.").len(), 1);
    assert!(forbidden("untold, told-off, retold").is_empty());
    let mut wrong = Vec::new();
    let path = root().join("src/lib.rs");
    check_rust(
        &path,
        "/// Something is taken\n/// back.\nfn a() {}\nfn b() { log(\"it is told now\") }",
        &mut wrong,
    );
    assert_eq!(wrong.len(), 2, "{wrong:?}");
}
