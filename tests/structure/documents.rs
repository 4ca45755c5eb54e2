//! The documents: short entry pages, links that lead somewhere, a first paragraph that says who needs the page.

use std::fs;

use super::sources::{files, root};

/// Most bytes of the pages that a newcomer reads first.
const MAX_BYTES: [(&str, u64); 2] = [("README.md", 6 * 1024), ("CLAUDE.md", 8 * 1024)];

#[test]
fn entry_pages_are_short() {
    for (name, max) in MAX_BYTES {
        let bytes = fs::metadata(root().join(name)).unwrap().len();
        assert!(bytes <= max, "{name} has {bytes} bytes, more than {max}: move detail into docs/");
    }
}

#[test]
fn every_topic_says_who_needs_it() {
    for path in files("docs", &[".md"]) {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().skip(1).find(|line| !line.is_empty()).unwrap();
        assert!(first.starts_with("For "), "{}: begin with \"For <whom>: <what>\"", path.display());
    }
}

#[test]
fn the_compose_file_sets_no_variable_to_nothing() {
    let text = fs::read_to_string(root().join("deployments/compose.yaml")).unwrap();
    assert!(text.contains("  API_KEY:\n"), "the key of the operator's shell is not passed");
    let empty: Vec<_> = text.lines().filter(|line| line.contains("-}")).collect();
    assert!(empty.is_empty(), "write only the name, so that an unset variable stays unset: {empty:?}");
}

#[test]
fn every_link_leads_to_a_file() {
    let mut pages = files("docs", &[".md"]);
    pages.extend(["README.md", "CLAUDE.md", "perf/README.md"].map(|name| root().join(name)));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = page.parent().unwrap().join(target);
            assert!(file.exists(), "{}: {target} does not exist", page.display());
        }
    }
}

/// Every path of the tree that a document names in backquotes exists.
#[test]
fn every_file_that_a_document_names_exists() {
    let mut pages = files("docs", &[".md"]);
    pages.extend(["README.md", "CLAUDE.md", "perf/README.md"].map(|name| root().join(name)));
    let folders = [
        "src/",
        "tests/",
        "docs/",
        "perf/",
        "deployments/",
        "benches/",
        "server/",
        "api/",
        "proxy/",
        "pool/",
        "store/",
        "runtime/",
        "cluster/",
        "cli/",
        "template/",
        "instance/",
        "config/",
        "request/",
        "telemetry/",
    ];
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = folders.iter().any(|folder| name.starts_with(folder))
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b));
            if !is_path {
                continue;
            }
            let bases = ["", "src/"];
            let there = bases.iter().any(|base| {
                let path = root().join(base).join(name.trim_end_matches('/'));
                path.exists() || path.with_extension("rs").exists()
            });
            assert!(there, "{}: `{name}` does not exist", page.display());
        }
    }
}
