//! How many files import each other in a circle.
//!
//! A file imports another when it names an item that the other defines; re-exports are followed to the definition. A
//! `mod` declaration and a `pub use` are no imports.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{absolute, paths};
use super::sources::sources;

/// Most circles in the crate.
const MAX_CIRCLES: usize = 5;
/// Most files of one circle.
const MAX_FILES: usize = 6;

/// What a module defines and re-exports.
#[derive(Default)]
struct Module {
    items: BTreeSet<String>,
    /// From a name to the path that it stands for; `*` for a glob.
    exports: Vec<(String, Vec<String>)>,
    /// Absolute paths that the module imports.
    imports: Vec<Vec<String>>,
}

const ITEM_KEYWORDS: [&str; 9] =
    ["struct", "enum", "trait", "type", "fn", "const", "static", "union", "macro_rules!"];

/// Returns the names of the items that `code` defines.
fn items(code: &str) -> BTreeSet<String> {
    let words: Vec<&str> = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '!')).collect();
    words
        .iter()
        .enumerate()
        .filter(|(_, word)| ITEM_KEYWORDS.contains(word))
        .filter_map(|(at, _)| words[at + 1..].iter().find(|word| !word.is_empty()))
        .map(|word| (*word).to_owned())
        .collect()
}

/// Splits `code` into its `pub use` statements and the rest.
fn split_exports(code: &str) -> (Vec<String>, String) {
    let (mut exports, mut rest) = (Vec::new(), String::new());
    for statement in code.split_inclusive(';') {
        let at = statement.find("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            let last_line = before.rsplit(['\n', '}', '{']).next().unwrap_or_default().trim();
            last_line.starts_with("pub")
        });
        match at {
            Some(at) => exports.push(statement[at + 4..].trim_end_matches(';').trim().to_owned()),
            None => rest.push_str(statement),
        }
    }
    (exports, rest)
}

fn modules() -> BTreeMap<String, Module> {
    let sources: Vec<_> = sources().into_iter().filter(|source| source.name != "main.rs").collect();
    let names: BTreeSet<String> = sources.iter().map(|source| source.module().join("::")).collect();
    let mut modules = BTreeMap::new();
    for source in &sources {
        let module: Vec<String> = source.module().into_iter().map(str::to_owned).collect();
        let children: BTreeSet<String> = names
            .iter()
            .filter_map(|name| name.rsplit_once("::").or(Some(("", name.as_str()))))
            .filter(|(parent, _)| *parent == module.join("::"))
            .map(|(_, child)| child.to_owned())
            .collect();
        let (exports, rest) = split_exports(&source.code);
        let mut entry = Module { items: items(&source.code), ..Module::default() };
        for export in exports {
            // The braces of a use tree are resolved by reading it below a root of its own.
            for path in paths(&format!("root::{export}"), "root") {
                let name = path.last().cloned().unwrap_or_default();
                if let Some(path) = absolute(&path, &module, &children) {
                    entry.exports.push((name, path));
                }
            }
        }
        let roots = ["crate", "self", "super"].into_iter().map(str::to_owned).chain(children.iter().cloned());
        for root in roots {
            for mut path in paths(&rest, &root) {
                path.insert(0, root.clone());
                entry.imports.extend(absolute(&path, &module, &children));
            }
        }
        modules.insert(module.join("::"), entry);
    }
    modules
}

/// Returns the module that defines the item at `path`.
fn definition(path: &[String], modules: &BTreeMap<String, Module>, depth: usize) -> Option<String> {
    let known = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length].join("::")))?;
    let name = path[..known].join("::");
    let module = &modules[&name];
    let (Some(item), true) = (path.get(known), depth < 8) else { return Some(name) };
    if module.items.contains(item) {
        return Some(name);
    }
    let export = module.exports.iter().find(|(exported, _)| exported == item);
    match export {
        Some((_, target)) => {
            definition(&[target.as_slice(), &path[known + 1..]].concat(), modules, depth + 1)
        }
        None => Some(name),
    }
}

/// Returns every set of two or more modules that reach each other.
fn circles() -> Vec<Vec<String>> {
    let modules = modules();
    let names: Vec<&String> = modules.keys().collect();
    let edges: BTreeMap<&String, BTreeSet<String>> = modules
        .iter()
        .map(|(name, module)| {
            let targets = module.imports.iter().filter_map(|path| definition(path, &modules, 0));
            (name, targets.filter(|target| target != name).collect())
        })
        .collect();
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(name) = open.pop() {
            for next in &edges[&name] {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> =
        names.iter().map(|name| (*name, reached(name))).collect();
    let mut found: Vec<Vec<String>> = Vec::new();
    for name in &names {
        if found.iter().any(|circle| circle.contains(name)) || !reach[*name].contains(*name) {
            continue;
        }
        let circle =
            names.iter().filter(|other| reach[*name].contains(**other) && reach[**other].contains(*name));
        found.push(circle.map(|other| (*other).clone()).collect());
    }
    found
}

#[test]
fn few_files_import_each_other() {
    let circles = circles();
    let shown: Vec<_> = circles.iter().map(|circle| circle.join(", ")).collect();
    assert!(circles.len() <= MAX_CIRCLES, "more than {MAX_CIRCLES} circles:\n{}", shown.join("\n"));
    for circle in &circles {
        assert!(circle.len() <= MAX_FILES, "more than {MAX_FILES} files in a circle: {}", circle.join(", "));
    }
}

#[test]
fn items_and_exports_are_read() {
    let code = "pub use a::{B, c::D}; pub(crate) struct E; use f::G; const fn h() {} pub use self::i::J;";
    let (exports, rest) = split_exports(code);
    assert_eq!(exports, ["a::{B, c::D}", "self::i::J"]);
    assert!(rest.contains("use f::G") && !rest.contains("B, c"));
    assert!(items(code).contains("E"));
}
