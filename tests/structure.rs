//! The source tree keeps its layers. This file says which module may know which; a breach names the line.
//!
//! Read it from the top: a module knows those that it lists, and never those above it. `instance` knows nothing but
//! time, so that its rules stay pure; a backend knows its own trait and the rules, so that another can take
//! its place; and only the composition root knows which backend there is.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may know whom. A name of two parts is a backend, or one item of a module that is else unknown.
const MAY_KNOW: &[(&str, &str)] = &[
    ("main", "config doctor runtime sample_app server telemetry"),
    // A request, in order.
    (
        "server",
        "proxy api pool routes nodes store runtime request instance config doctor clock hex task telemetry",
    ),
    ("proxy", "api pool routes nodes store pages request instance config clock task telemetry"),
    ("api", "pool nodes store pages request instance config clock task telemetry"),
    ("request", "config clock"),
    ("nodes", "pool store instance config::Secret clock exchange hex task"),
    ("pages", "instance html"),
    // An instance, in order.
    ("pool", "routes store runtime instance config clock exchange task telemetry"),
    ("routes", "store instance clock telemetry"),
    // What they stand on.
    ("store", "instance config::Secret clock"),
    ("store::memory", "store instance config::Secret clock"),
    ("store::valkey", "store instance config::Secret clock task"),
    ("runtime", "instance config::Secret"),
    ("runtime::process", "runtime instance clock task"),
    ("runtime::containerd", "runtime instance hex task"),
    ("runtime::none", "runtime instance clock task"),
    ("instance", "clock hex"),
    // Known to all, and knowing little.
    ("telemetry", "config store::Counts"),
    ("doctor", "store config instance runtime::Checkpoint runtime::daemon runtime::tracefs"),
    ("config", "runtime instance"),
    ("html", ""),
    ("hex", ""),
    ("exchange", ""),
    ("task", ""),
    ("clock", ""),
    // An app of its own, that happens to be in the same binary.
    ("sample_app", "html clock task"),
];

/// The composition root may know every backend.
const COMPOSITION_ROOT: &str = "server/app.rs";
const BACKENDS: [&str; 5] =
    ["store::memory", "store::valkey", "runtime::process", "runtime::containerd", "runtime::none"];

/// Most lines of a file, its tests not counted.
const LONGEST: usize = 400;

struct Source {
    /// From `src/` on.
    name: String,
    /// Without comments, texts and tests.
    code: String,
}

impl Source {
    /// The module path: `pool/line.rs` is `[pool, line]`, `pool/mod.rs` is `[pool]`, `lib.rs` is `[]`.
    fn module(&self) -> Vec<&str> {
        let path = self.name.strip_suffix(".rs").unwrap();
        path.split('/').filter(|part| !matches!(*part, "mod" | "lib")).collect()
    }

    /// All that it names in this crate, as paths from its root. `None` in place of one that climbs there itself.
    fn knows(&self) -> Vec<Option<Vec<String>>> {
        let root = if self.name == "main.rs" { "try_it_now" } else { "crate" };
        let mut known: Vec<_> = paths(&self.code, root).into_iter().map(Some).collect();
        let module = self.module();
        for path in paths(&self.code, "super") {
            let climbed = 1 + path.iter().take_while(|part| *part == "super").count();
            let folder =
                module.len().checked_sub(climbed).filter(|left| *left > 0).map(|left| &module[..left]);
            known.push(folder.map(|folder| {
                folder
                    .iter()
                    .map(|part| (*part).to_owned())
                    .chain(path[climbed - 1..].iter().cloned())
                    .collect()
            }));
        }
        known
    }

    /// The row of the table that it belongs to.
    fn unit(&self) -> String {
        unit(&self.module())
    }
}

fn unit(path: &[&str]) -> String {
    let two = path.iter().take(2).copied().collect::<Vec<_>>().join("::");
    if BACKENDS.contains(&two.as_str()) { two } else { path.first().copied().unwrap_or("lib").to_owned() }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// All that is no test.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files(&src(), &mut paths);
    let all: BTreeMap<PathBuf, String> =
        paths.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect();
    let tests: BTreeSet<PathBuf> = all.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test = |path: &Path| path.ancestors().any(|part| tests.contains(&part.with_extension("")));
    all.iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| Source {
            name: path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned(),
            code: without_texts(without_tests(text)),
        })
        .collect()
}

/// The modules that a file declares for tests only, as paths without an extension.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match path.file_stem().unwrap().to_str().unwrap() {
        "mod" | "lib" | "main" => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").filter_map(|pair| {
        let name = pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')?;
        Some(folder.join(name))
    });
    declared.collect()
}

/// A file up to its tests, which come last.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

/// Blanks comments and what stands in quotes, so that only code is left.
fn without_texts(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(["/", "\"", "'"].map(|s| s.chars().next().unwrap())) {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        let (skip, instead) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), "")
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), "")
        } else if rest.starts_with('"') {
            (quoted(rest, &code), "\"\"")
        } else if rest.starts_with("'\\") {
            (2 + rest[3..].find('\'').unwrap() + 2, "' '")
        } else if rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
            (1 + rest.chars().nth(1).unwrap().len_utf8() + 1, "' '")
        } else {
            (1, &rest[..1])
        };
        code.push_str(instead);
        rest = &rest[skip..];
    }
    code + rest
}

/// The length of the quoted text at the front; `before` tells whether it is a raw one.
fn quoted(text: &str, before: &str) -> usize {
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

/// All paths that begin with `root`, braces resolved: `crate::a::{b, c::D}` is `a::b` and `a::c::D`.
fn paths(code: &str, root: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            tree(&code[at + root.len()..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads `::name::name` or `::{tree, tree}`; returns how far.
fn tree(code: &str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    let mut at = 0;
    while code[at..].starts_with("::") {
        at += 2;
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += code[at..].len() - code[at..].trim_start_matches([',', ' ', '\n']).len();
                if at == code.len() || code[at..].starts_with('}') {
                    break;
                }
                let inner = format!("::{}", &code[at..]);
                at += tree(&inner, prefix, found) - 2;
                at += code[at..].find([',', '}']).unwrap_or(0);
            }
            prefix.truncate(depth);
            return at + 1;
        }
        let end = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(code.len() - at);
        prefix.push(code[at..at + end].to_owned());
        at += end;
    }
    found.push(prefix.clone());
    prefix.truncate(depth);
    at
}

fn breaches(source: &Source) -> Vec<String> {
    let unit_of_source = source.unit();
    let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == unit_of_source) else {
        return vec![format!("{}: the table lacks `{unit_of_source}`", source.name)];
    };
    let mut wrong = Vec::new();
    for path in source.knows() {
        let Some(path) = path else {
            wrong.push(format!("{}: write `crate::` for what is outside of `{unit_of_source}`", source.name));
            continue;
        };
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        let known = unit(&path);
        let item = path.iter().take(2).copied().collect::<Vec<_>>().join("::");
        let fine = known == unit_of_source
            || allowed.split(' ').any(|name| name == known || name == item)
            || (source.name == COMPOSITION_ROOT && BACKENDS.contains(&known.as_str()));
        if !fine {
            wrong.push(format!("{}: `{unit_of_source}` must not know `{}`", source.name, path.join("::")));
        }
    }
    wrong
}

#[test]
fn every_module_knows_only_what_it_may() {
    let wrong: Vec<_> =
        sources().iter().filter(|source| source.name != "lib.rs").flat_map(breaches).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_itself_has_no_circle() {
    let rows: BTreeMap<&str, &str> = MAY_KNOW.iter().copied().collect();
    fn visit<'a>(name: &'a str, rows: &BTreeMap<&'a str, &'a str>, way: &mut Vec<&'a str>) {
        assert!(!way.contains(&name), "{way:?} and again {name}");
        way.push(name);
        for next in rows.get(name).into_iter().flat_map(|names| names.split_whitespace()) {
            visit(next, rows, way);
        }
        way.pop();
    }
    for name in rows.keys() {
        visit(name, &rows, &mut Vec::new());
    }
}

#[test]
fn every_row_of_the_table_is_in_use() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let row = known.entry(source.unit()).or_default();
        for path in source.knows().into_iter().flatten() {
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            row.insert(unit(&path));
            row.insert(path.iter().take(2).copied().collect::<Vec<_>>().join("::"));
        }
    }
    // Known to all who need it; that not everybody does is no reason to forbid it.
    let common = ["clock", "config", "task", "telemetry"];
    for &(name, allowed) in MAY_KNOW {
        let row = known.get(name).unwrap_or_else(|| panic!("there is no module `{name}`"));
        for other in allowed.split_whitespace().filter(|other| !common.contains(other)) {
            assert!(row.contains(other), "`{name}` has no need to know `{other}`");
        }
    }
}

#[test]
fn every_module_of_the_map_exists_and_says_what_it_is_for() {
    let map = fs::read_to_string(src().join("lib.rs")).unwrap();
    let lines: Vec<_> = map.lines().collect();
    let mut names = BTreeSet::new();
    for pair in lines.windows(2) {
        let Some(name) =
            pair[1].trim_start_matches("pub ").strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        assert!(pair[0].starts_with("/// "), "`{name}` has its line of explanation");
        assert!(
            src().join(format!("{name}.rs")).exists() || src().join(name).join("mod.rs").exists(),
            "{name}"
        );
        names.insert(name.to_owned());
    }
    let there: BTreeSet<_> =
        sources().iter().filter_map(|s| Some((*s.module().first()?).to_owned())).collect();
    let there = there.into_iter().filter(|name| name != "main").collect();
    assert_eq!(names, there, "the map names all that there is");
}

#[test]
fn no_file_is_too_long_to_read() {
    for source in sources() {
        let text = fs::read_to_string(src().join(&source.name)).unwrap();
        let lines = without_tests(&text).lines().count();
        assert!(lines <= LONGEST, "src/{} has {lines} lines", source.name);
    }
}

#[test]
fn this_test_reads_code_as_the_compiler_does() {
    let code = without_texts(
        "use crate::{a, b::{C, d::E}}; // crate::no\nlet x = \"crate::no \\\" crate::no\"; 'c' '\\'' &'a crate::f::G;
         r#\"crate::no \" crate::no\"# crate::h; othercrate::no",
    );
    let found: Vec<_> = paths(&code, "crate").iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a", "b::C", "b::d::E", "f::G", "h"]);
}
