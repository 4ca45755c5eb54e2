//! Finds out which random number generators the programs and libraries of an app have whose numbers may repeat in the
//! instances of a checkpoint.
//!
//! # Traps
//! The texts in [`REVERSED_MARKERS`] are written backwards, because this program may itself be in an image.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::node_script;
use crate::runtime::containerd::checkpoint::mapped_code::{MappedCode, Markers, ProcessCode};

/// The generators of OpenSSL 1.1.1 and later.
const OPENSSL: &str = "OpenSSL";
/// The versions of OpenSSL all of whose generators [`super::openssl`] finds, so that none is there if none is found.
const KNOWN_OPENSSL: &str = "a known version of OpenSSL";
const OLD_OPENSSL: &str = "OpenSSL before 1.1.1";
const LIBRESSL: &str = "LibreSSL";
const GNUTLS: &str = "GnuTLS";
const NODE: &str = "Node";

/// Texts in programs and libraries, written backwards, and what has them.
const REVERSED_MARKERS: [(&[u8], &str); 9] = [
    // The text that a generator is made individual with.
    (b"GBRD A09-008 PS TSIN LSSnepO", OPENSSL),
    (b".3 LSSnepO", KNOWN_OPENSSL),
    // The name of a source file, in error messages.
    (b"c.dnar_dm/dnar", OLD_OPENSSL),
    (b".2 LSSerbiL", LIBRESSL),
    (b".3 LSSerbiL", LIBRESSL),
    (b".4 LSSerbiL", LIBRESSL),
    // Names in its own scripts: the store for UUIDs, and the one for integers.
    (b"dereffuBtoNdiuu", NODE),
    (b"sksaTgnidnePehcaCcnysa", NODE),
    (b"dnr_slttung_", GNUTLS),
];

/// Most reasons that are kept. An app decides how many there are.
const MAX_REASONS: usize = 64;

/// What the generators of the processes of an app are, and which may repeat.
#[derive(Debug, Default)]
pub(crate) struct GeneratorScan {
    /// Generators that may repeat whatever is in memory, each with what to do.
    pub(super) repeating: BTreeSet<String>,
    /// The processes with generators of OpenSSL of which some may not be found, by their numbers in the container, each
    /// with the file that has them.
    pub(super) unknown_openssl: HashMap<u32, String>,
}

/// Searches the code of processes, given by their numbers on the host. Processes that ended meanwhile are left out; what
/// cannot be examined counts as repeating.
pub(crate) fn scan_generators(processes: &[u32]) -> GeneratorScan {
    let markers = Markers::from_reversed(&REVERSED_MARKERS);
    let (mut scan, mut known) = (GeneratorScan::default(), HashMap::new());
    for pid in processes {
        match ProcessCode::read(*pid) {
            Ok(Some(process)) => scan.add_process(&process, &markers, &mut known),
            Ok(None) => {}
            Err(why) => scan.add_repeating(why),
        }
    }
    scan
}

/// What each file has that was searched, by its device and its number.
type KnownFiles = HashMap<(String, String), Result<BTreeSet<&'static str>, String>>;

impl GeneratorScan {
    fn add_repeating(&mut self, reason: String) {
        if self.repeating.len() < MAX_REASONS {
            self.repeating.insert(reason);
        }
    }

    fn add_process(&mut self, process: &ProcessCode, markers: &Markers, known: &mut KnownFiles) {
        // A process may map many files, and each many times. Of each kind one file is named.
        let mut found: BTreeMap<&str, &str> = BTreeMap::new();
        for code in process.files() {
            let file = match known.entry(code.file()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(search(&code, process, markers)),
            };
            match file {
                Ok(kinds) => kinds_that_may_repeat(kinds).for_each(|kind| {
                    found.entry(kind).or_insert(code.path);
                }),
                Err(why) => {
                    let why = why.clone();
                    self.add_repeating(why);
                }
            }
        }
        for (kind, path) in found {
            self.add_kind(process, kind, path);
        }
    }

    fn add_kind(&mut self, process: &ProcessCode, kind: &str, path: &str) {
        // An image decides what its files are called, and the operator's terminal shows it.
        let path = path.escape_debug();
        match kind {
            OPENSSL => _ = self.unknown_openssl.insert(process.number(), path.to_string()),
            NODE => {
                if !process.environment().is_ok_and(|variables| node_script::runs_script(&variables)) {
                    self.add_repeating(format!(
                        "{path} is Node, which stores numbers for randomUUID and randomInt: add {} to {}, or use randomBytes",
                        node_script::OPTIONS,
                        node_script::VARIABLE,
                    ));
                }
            }
            _ => {
                self.add_repeating(format!(
                    "{path} has {kind}, whose generator is not reset: if the app draws numbers with it before the freeze, restart that process by a hook, or use OpenSSL 3"
                ));
            }
        }
    }
}

/// Returns the kinds of generators in a file that may repeat.
fn kinds_that_may_repeat(found: &BTreeSet<&'static str>) -> impl Iterator<Item = &'static str> {
    let is_known = found.contains(KNOWN_OPENSSL);
    found.iter().copied().filter(move |kind| *kind != KNOWN_OPENSSL && !(is_known && *kind == OPENSSL))
}

fn search(
    code: &MappedCode<'_>,
    process: &ProcessCode,
    markers: &Markers,
) -> Result<BTreeSet<&'static str>, String> {
    let found = process.open(code).and_then(|file| markers.search(file));
    let mut found = found.map_err(|error| format!("cannot examine {}: {error}", code.path.escape_debug()))?;
    found.extend(generator_of_library(code.path));
    Ok(found)
}

/// Returns the generator whose library has this path.
fn generator_of_library(path: &str) -> Option<&'static str> {
    path.rsplit('/').next()?.starts_with("libgnutls.").then_some(GNUTLS)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn search(text: &[u8]) -> BTreeSet<&'static str> {
        Markers::from_reversed(&REVERSED_MARKERS).search(text).unwrap()
    }

    /// Returns the last text of a kind. It is not in this program.
    fn text(kind: &str) -> String {
        let (text, _) = REVERSED_MARKERS.iter().rfind(|(_, other)| *other == kind).unwrap();
        text.iter().rev().map(|byte| char::from(*byte)).collect()
    }

    #[test]
    fn kinds_of_generators_are_distinguished_by_their_texts() {
        let repeating = |text: &str| kinds_that_may_repeat(&search(text.as_bytes())).collect::<Vec<_>>();
        let openssl = |version: &str| repeating(&format!("{}\0{version}", text(OPENSSL)));
        assert_eq!(openssl(&format!("{}5.4 30 Sep 2025", text(KNOWN_OPENSSL))), [""; 0]);
        // In its first versions generators have another layout.
        assert_eq!(openssl("OpenSSL 1.1.1w  11 Sep 2023"), [OPENSSL]);
        assert_eq!(openssl("OpenSSL 4.0.0 14 Apr 2026"), [OPENSSL]);
        for kind in [OLD_OPENSSL, LIBRESSL, GNUTLS, NODE] {
            assert_eq!(repeating(&format!("one {} two", text(kind))), [kind]);
        }
        assert_eq!(repeating("OpenSSL or LibreSSL"), [""; 0]);
        assert_eq!(generator_of_library("/usr/lib/libgnutls.so.30"), Some(GNUTLS));
        assert_eq!(generator_of_library("/usr/lib/libgnutlsxx.so.30"), None);
    }

    #[test]
    fn this_program_contains_no_text_of_a_generator() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let found = Markers::from_reversed(&REVERSED_MARKERS).search(program).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_process_that_has_ended_is_left_out() {
        let scan = scan_generators(&[u32::MAX >> 1]);
        assert!(scan.repeating.is_empty() && scan.unknown_openssl.is_empty());
    }
}
