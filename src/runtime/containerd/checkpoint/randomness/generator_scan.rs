//! Finds out which random number generators the programs and libraries of an app have whose numbers may repeat in the
//! instances of a checkpoint.
//!
//! # Traps
//! The texts in [`REVERSED_MARKERS`] are written backwards, because this program may itself be in an image.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::node_script;
use crate::runtime::containerd::checkpoint::mapped_code::{MappedCode, Markers, ProcessCode};

/// The generators of OpenSSL 1.1.1 and later.
const OPENSSL: &str = "OpenSSL";
/// The versions of OpenSSL whose generators [`super::openssl`] finds.
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
    (b"1.1.1 LSSnepO", KNOWN_OPENSSL),
    // The name of a source file, in error messages.
    (b"c.dnar_dm/dnar", OLD_OPENSSL),
    (b".2 LSSerbiL", LIBRESSL),
    (b".3 LSSerbiL", LIBRESSL),
    (b".4 LSSerbiL", LIBRESSL),
    (b"ehcaCyportnEelbasid", NODE),
    (b"dnr_slttung_", GNUTLS),
];

/// What the generators of the processes of an app are, and which may repeat.
#[derive(Debug, Default)]
pub(crate) struct GeneratorScan {
    /// Generators that may repeat whatever is in memory, each with what to do.
    pub(super) repeating: Vec<String>,
    /// The processes with generators of OpenSSL in a version whose layout is not known, by their numbers in the
    /// container, each with the file that has them.
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
            Err(why) => scan.repeating.push(why),
        }
    }
    scan
}

/// What each file has that was searched, by what tells the file from others.
type KnownFiles = HashMap<(String, String), Result<BTreeSet<&'static str>, String>>;

impl GeneratorScan {
    fn add_process(&mut self, process: &ProcessCode, markers: &Markers, known: &mut KnownFiles) {
        for code in process.files() {
            let file = match known.entry(code.file()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(search(&code, process, markers)),
            };
            match file {
                Ok(found) => self.add_file(process, code.path, found),
                Err(why) => self.repeating.push(why.clone()),
            }
        }
    }

    fn add_file(&mut self, process: &ProcessCode, path: &str, found: &BTreeSet<&'static str>) {
        if found.contains(OPENSSL) && !found.contains(KNOWN_OPENSSL) {
            self.unknown_openssl.insert(process.number(), path.to_owned());
        }
        for old in [OLD_OPENSSL, LIBRESSL, GNUTLS].into_iter().filter(|old| found.contains(old)) {
            self.repeating.push(format!(
                "{path} has {old}, whose generator is not reset: if the app draws numbers with it before the freeze, restart that process by a hook, or use OpenSSL 3"
            ));
        }
        // A script cannot change a program that is not Node and only contains its code.
        if found.contains(NODE)
            && !process.environment().is_ok_and(|variables| node_script::runs_script(&variables))
        {
            self.repeating.push(format!(
                "{path} is Node, which stores numbers for randomUUID and randomInt: add {} to {}, or use randomBytes",
                node_script::OPTIONS,
                node_script::VARIABLE,
            ));
        }
    }
}

fn search(
    code: &MappedCode<'_>,
    process: &ProcessCode,
    markers: &Markers,
) -> Result<BTreeSet<&'static str>, String> {
    let found = process.open(code).and_then(|file| markers.search(file));
    found.map_err(|error| format!("cannot examine {}: {error}", code.path))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn search(text: &[u8]) -> BTreeSet<&'static str> {
        Markers::from_reversed(&REVERSED_MARKERS).search(text).unwrap()
    }

    #[test]
    fn versions_of_openssl_are_told_apart() {
        let library = |version: &str| search(format!("OpenSSL NIST SP 800-90A DRBG\0{version}").as_bytes());
        let known = BTreeSet::from([OPENSSL, KNOWN_OPENSSL]);
        assert_eq!(library("OpenSSL 3.5.4 30 Sep 2025"), known);
        assert_eq!(library("OpenSSL 1.1.1w  11 Sep 2023"), known);
        assert_eq!(library("OpenSSL 4.0.0 14 Apr 2026"), BTreeSet::from([OPENSSL]));
        assert_eq!(
            search(b"crypto/rand/md_rand.c\0OpenSSL 1.0.2u  20 Dec 2019"),
            BTreeSet::from([OLD_OPENSSL])
        );
        assert_eq!(search(b"LibreSSL 3.9.2"), BTreeSet::from([LIBRESSL]));
        assert!(search(b"OpenSSL or LibreSSL").is_empty());
    }

    #[test]
    fn this_program_contains_no_text_of_a_generator() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let found = Markers::from_reversed(&REVERSED_MARKERS).search(program).unwrap();
        // The tests contain some, and the script names an option of Node.
        assert!(!found.contains(GNUTLS), "{found:?}");
    }

    #[test]
    fn a_process_that_has_ended_is_left_out() {
        let scan = scan_generators(&[u32::MAX >> 1]);
        assert!(scan.repeating.is_empty() && scan.unknown_openssl.is_empty());
    }
}
