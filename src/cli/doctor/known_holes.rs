//! Checks the versions of runc and containerd against known holes, with the version that closed each. Holes in parts of
//! containerd that this server does not use, such as its CRI plugin, are left out.
//!
//! Distributions close holes in older versions without a new number. So a version with a distribution's mark, such as
//! `1.1.5+ds1-1+deb12u1`, is reported as possibly closed, with the way to find out.

use super::check_result::CheckResult;
use super::tool::ToolResult;

/// A hole of a program.
struct KnownHole {
    name: &'static str,
    /// What it allows.
    allows: &'static str,
    /// The first version that has it.
    since: Version,
    /// The first version of each series that closed it, in ascending order. A series is a major and a minor version. A
    /// series that is not listed is open, unless it is newer than all of these.
    closed_in: &'static [Version],
}

/// Major, minor and patch version.
type Version = (u32, u32, u32);

const RUNC: &[KnownHole] = &[
    KnownHole {
        name: "CVE-2024-21626",
        since: (1, 0, 0),
        allows: "an image or a command reaches the host's files by a leaked descriptor",
        closed_in: &[(1, 1, 12)],
    },
    KnownHole {
        name: "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
        since: (0, 0, 0),
        allows: "a container that starts beside a hostile one writes to the host's /proc",
        closed_in: &[(1, 2, 8), (1, 3, 3), (1, 4, 0)],
    },
    KnownHole {
        name: "CVE-2026-41579",
        since: (0, 0, 0),
        allows: "an image with a link as /dev removes and makes some files of the host",
        closed_in: &[(1, 3, 6), (1, 4, 3), (1, 5, 0)],
    },
];

const CONTAINERD: &[KnownHole] = &[
    KnownHole {
        name: "CVE-2025-47290",
        since: (2, 1, 0),
        allows: "an image changes files of the host while it is unpacked",
        closed_in: &[(2, 1, 1)],
    },
    KnownHole {
        name: "CVE-2024-25621",
        since: (0, 0, 0),
        allows: "other users of the host enter containerd's folders",
        closed_in: &[(1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)],
    },
];

/// Judges the version that `runc --version` printed.
pub(super) fn of_runc(output: Option<&ToolResult>) -> Option<CheckResult> {
    judge("runc holes", "runc", RUNC, output)
}

/// Judges the version that `containerd --version` printed.
pub(super) fn of_containerd(output: Option<&ToolResult>) -> Option<CheckResult> {
    judge("containerd holes", "containerd", CONTAINERD, output)
}

/// Returns `None` when there is no version to judge, which other checks report.
fn judge(
    check: &'static str,
    program: &str,
    known: &[KnownHole],
    output: Option<&ToolResult>,
) -> Option<CheckResult> {
    let Some(ToolResult::Succeeded(output)) = output else { return None };
    let (text, version) = version_word(output)?;
    let open: Vec<&KnownHole> = known.iter().filter(|hole| !is_closed(hole, version)).collect();
    if open.is_empty() {
        return Some(CheckResult::ok(check, format!("no known hole in {program} {text}")));
    }
    let holes: Vec<_> = open.iter().map(|hole| format!("{}: {}", hole.name, hole.allows)).collect();
    let newest = open.iter().filter_map(|hole| hole.closed_in.last()).max();
    let (major, minor, patch) = newest.copied().unwrap_or(version);
    let is_packaged = text.contains(['+', '~', '-']);
    let (found, remedy) = if is_packaged {
        (
            format!("{program} {text} is a distribution's, which may have closed: {}", holes.join("; ")),
            format!(
                "apt-get install --only-upgrade {program}; then see apt-get changelog {program} for these numbers"
            ),
        )
    } else {
        (
            format!("{program} {text} has {}", holes.join("; ")),
            format!("install {program} {major}.{minor}.{patch} or newer"),
        )
    };
    Some(CheckResult::warning(check, found, remedy))
}

/// Returns the first word of an output that begins with a version, and the version.
fn version_word(output: &str) -> Option<(&str, Version)> {
    output.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('v').unwrap_or(word);
        let mut numbers = word.splitn(3, '.');
        let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let patch = numbers.next()?;
        let end = patch.find(|c: char| !c.is_ascii_digit()).unwrap_or(patch.len());
        Some((word, (major, minor, patch[..end].parse().ok()?)))
    })
}

fn is_closed(hole: &KnownHole, version: Version) -> bool {
    let series = |version: &Version| (version.0, version.1);
    if version < hole.since {
        return true;
    }
    match hole.closed_in.iter().find(|closed| series(closed) == series(&version)) {
        Some(closed) => version >= *closed,
        None => hole.closed_in.last().is_some_and(|last| version > *last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn runc(output: &str) -> CheckResult {
        of_runc(Some(&ToolResult::Succeeded(output.to_owned()))).unwrap()
    }

    #[test]
    fn a_version_is_judged_by_its_own_series() {
        for (version, holes) in [
            ("1.3.6", 0),
            ("1.4.3", 0),
            ("1.5.0", 0),
            ("2.0.0", 0),
            ("1.3.5", 1),
            ("1.4.0", 1),
            ("1.3.2", 2),
            ("1.2.8", 1),
            ("1.1.12", 2),
            ("1.1.11", 3),
            ("1.0.3", 3),
        ] {
            let judged = runc(&format!("runc version {version}\ncommit: v1.0.0-1-gabc\nspec: 1.2.1"));
            let named = RUNC.iter().filter(|hole| judged.found.contains(hole.name)).count();
            assert_eq!(named, holes, "{version}: {}", judged.found);
            assert_eq!(judged.verdict == Verdict::Ok, holes == 0, "{version}");
        }
    }

    #[test]
    fn a_version_of_a_distribution_is_not_called_open() {
        let judged = runc("runc version 1.1.5+ds1");
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.found.contains("may have closed"), "{}", judged.found);
        assert!(judged.remedy.unwrap().contains("changelog"));
        let own = runc("runc version 1.1.5");
        assert!(own.found.contains("has CVE-2024-21626") && own.remedy.unwrap().contains("1.5.0"));
    }

    #[test]
    fn the_version_of_containerd_is_found_in_its_own_words() {
        let judged = |output: &str| of_containerd(Some(&ToolResult::Succeeded(output.to_owned()))).unwrap();
        let own = judged("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4");
        assert!(own.found.contains("CVE-2024-25621") && !own.found.contains("CVE-2025-47290"));
        assert!(judged("containerd containerd.io v2.1.0 x").found.contains("CVE-2025-47290"));
        assert!(!judged("containerd containerd.io 1.6.20~ds1 x").found.contains("CVE-2025-47290"));
        assert_eq!(judged("containerd github.com/containerd/containerd v2.3.2 x").verdict, Verdict::Ok);
        assert!(of_containerd(Some(&ToolResult::Failed("x".to_owned()))).is_none());
        assert!(of_containerd(None).is_none());
    }
}
