//! Which paths of this crate a source file names.

use std::collections::BTreeSet;

use super::sources::Source;

/// Returns every path of this crate that a file names, from the crate's root. `None` stands for a path that climbs to the
/// root with `super`.
pub(crate) fn named_paths(source: &Source) -> Vec<Option<Vec<String>>> {
    let root = if source.name == "main.rs" { "try_it_now" } else { "crate" };
    let mut known: Vec<_> = paths(&source.code, root).into_iter().map(Some).collect();
    let module: Vec<String> = source.module().into_iter().map(str::to_owned).collect();
    for mut path in paths(&source.code, "super") {
        path.insert(0, "super".to_owned());
        let climbs_to_root = path.iter().take_while(|part| *part == "super").count() >= module.len();
        known.push(absolute(&path, &module, &BTreeSet::new()).filter(|_| !climbs_to_root));
    }
    known
}

/// Makes a path absolute that `module` names: `super` climbs, a child's name descends.
pub(crate) fn absolute(
    path: &[String],
    module: &[String],
    children: &BTreeSet<String>,
) -> Option<Vec<String>> {
    let climbs = path.iter().take_while(|part| *part == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => {
            let kept = module.len().checked_sub(climbs)?;
            Some([&module[..kept], &path[climbs..]].concat())
        }
        child if children.contains(child) => Some([module, path].concat()),
        _ => None,
    }
}

/// Returns all paths that begin with `root`, braces resolved: `crate::a::{b, c::D}` is `a::b` and `a::c::D`.
pub(crate) fn paths(code: &str, root: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            tree(&code[at + root.len()..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads `::name::name` or `::{tree, tree}` and returns the number of bytes read.
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

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let code = super::sources::code_of(
        "use crate::{a, b::{C, d::E}}; // crate::no\nlet x = \"crate::no \\\" crate::no\"; 'c' '\\'' &'a crate::f::G;
         r#\"crate::no \" crate::no\"# crate::h; othercrate::no",
    );
    let found: Vec<_> = paths(&code, "crate").iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a", "b::C", "b::d::E", "f::G", "h"]);
}
