//! Which folder may use which.
//!
//! Read the table from the top: a folder uses those that it lists, and never those above it. `instance` and `template`
//! are pure. A backend uses its own trait and the rules, so that another can take its place. Only
//! `server/backends.rs` names concrete backends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::imports::named_paths;
use super::sources::{Source, root, sources};

/// Which folder may use which. A name of several parts is a folder in a folder: a backend, the queue, or the route table,
/// which the pool writes and the proxy reads.
const MAY_USE: &[(&str, &str)] = &[
    ("main", "cli runtime"),
    (
        "cli",
        "server api pool proxy::routes cluster::queue store request runtime config template instance telemetry clock",
    ),
    // A request, in order.
    (
        "server",
        "proxy api pool proxy::routes cluster cluster::queue store runtime request config template instance telemetry clock",
    ),
    ("proxy", "api pool proxy::routes cluster request config template instance telemetry clock"),
    ("api", "pool cluster cluster::queue store request config template instance telemetry clock"),
    // An instance, in order.
    (
        "pool",
        "proxy::routes cluster cluster::queue store runtime request config template instance telemetry clock",
    ),
    ("cluster", "store request template instance telemetry clock"),
    ("cluster::queue::memory", "cluster::queue instance telemetry clock"),
    ("cluster::queue::jetstream", "cluster::queue template instance telemetry clock"),
    ("cluster::queue", "instance clock"),
    ("proxy::routes", "store instance telemetry clock"),
    ("request", "config instance telemetry clock"),
    // What both stand on.
    ("store::memory", "store template instance telemetry clock"),
    ("store::valkey", "store template instance telemetry clock"),
    ("store", "template instance telemetry clock"),
    ("runtime::process", "runtime template instance telemetry clock"),
    ("runtime::containerd", "runtime::namespaces runtime template instance telemetry clock"),
    ("runtime::engine", "runtime::namespaces runtime template instance telemetry clock"),
    // What the backends with containers share.
    ("runtime::namespaces", "runtime instance telemetry clock"),
    ("runtime::mariadb", "runtime template instance telemetry clock"),
    ("runtime::null", "runtime template instance telemetry clock"),
    ("telemetry", "config instance"),
    ("config", "runtime template instance"),
    ("runtime", "template instance"),
    ("template", "instance"),
    ("instance", "clock"),
    ("clock", ""),
];

/// The one file that may name every backend.
const BACKENDS_FILE: &str = "server/backends.rs";
const INNER: [&str; 12] = [
    "cluster::queue",
    "cluster::queue::memory",
    "cluster::queue::jetstream",
    "store::memory",
    "store::valkey",
    "runtime::process",
    "runtime::containerd",
    "runtime::engine",
    "runtime::namespaces",
    "runtime::mariadb",
    "runtime::null",
    "proxy::routes",
];

/// Returns the row of the table that a path belongs to.
fn unit(path: &[&str]) -> String {
    let inner = [3, 2].map(|parts| path.iter().take(parts).copied().collect::<Vec<_>>().join("::"));
    let inner = inner.into_iter().find(|name| INNER.contains(&name.as_str()));
    inner.unwrap_or_else(|| path.first().copied().unwrap_or("lib").to_owned())
}

fn breaches(source: &Source) -> Vec<String> {
    let own = unit(&source.module());
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == own) else {
        return vec![format!("{}: the table lacks `{own}`", source.name)];
    };
    let mut wrong = Vec::new();
    for path in named_paths(source) {
        let Some(path) = path else {
            wrong.push(format!("{}: write `crate::` for paths outside `{own}`", source.name));
            continue;
        };
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        let used = unit(&path);
        let may_use = used == own
            || allowed.split_whitespace().any(|name| name == used)
            || (source.name == BACKENDS_FILE && INNER.contains(&used.as_str()));
        if !may_use {
            wrong.push(format!("{}: `{own}` must not use `{}`", source.name, path.join("::")));
        }
    }
    wrong
}

#[test]
fn every_folder_uses_only_what_it_may() {
    let wrong: Vec<_> =
        sources().iter().filter(|source| source.name != "lib.rs").flat_map(breaches).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    let rows: BTreeMap<&str, &str> = MAY_USE.iter().copied().collect();
    fn visit<'a>(name: &'a str, rows: &BTreeMap<&'a str, &'a str>, path: &mut Vec<&'a str>) {
        assert!(!path.contains(&name), "{path:?} and again {name}");
        path.push(name);
        for next in rows.get(name).into_iter().flat_map(|names| names.split_whitespace()) {
            visit(next, rows, path);
        }
        path.pop();
    }
    for name in rows.keys() {
        visit(name, &rows, &mut Vec::new());
    }
}

#[test]
fn every_entry_of_the_table_is_in_use() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let row = used.entry(unit(&source.module())).or_default();
        for path in named_paths(&source).into_iter().flatten() {
            row.insert(unit(&path.iter().map(String::as_str).collect::<Vec<_>>()));
        }
    }
    // Every folder that needs these may use them; that one does not today is no reason to forbid them.
    let common = ["clock", "config", "telemetry", "template", "instance"];
    for &(name, allowed) in MAY_USE {
        let row = used.get(name).unwrap_or_else(|| panic!("there is no folder `{name}`"));
        for other in allowed.split_whitespace().filter(|other| !common.contains(other)) {
            assert!(row.contains(other), "`{name}` does not use `{other}`: remove it from the table");
        }
    }
}

#[test]
fn every_module_of_the_crate_root_exists_and_has_a_line_of_explanation() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut names = BTreeSet::new();
    for pair in lines.windows(2) {
        let declaration = pair[1].trim_start_matches("pub ").strip_prefix("mod ");
        let Some(name) = declaration.and_then(|rest| rest.strip_suffix(';')) else {
            continue;
        };
        assert!(pair[0].starts_with("// "), "`{name}` lacks its line of explanation");
        names.insert(name.to_owned());
    }
    let there: BTreeSet<_> =
        sources().iter().filter_map(|source| Some((*source.module().first()?).to_owned())).collect();
    let there: BTreeSet<_> = there.into_iter().filter(|name| name != "main").collect();
    assert_eq!(names, there, "lib.rs lists every module");
}

/// Most entries of `src/`, so that both stories can be read from one listing.
const MAX_ENTRIES: usize = 16;

#[test]
fn the_source_folder_fits_one_glance() {
    let entries = fs::read_dir(root().join("src")).unwrap().count();
    assert!(entries <= MAX_ENTRIES, "src/ has {entries} entries, more than {MAX_ENTRIES}");
}
