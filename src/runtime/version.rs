//! Versions of the kernel and of tools.

/// Returns the first major and minor number with a dot between them, in the output of a tool or the release of a kernel.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let numbers = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    numbers.into_iter().find_map(|number| {
        let mut parts = number.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_output_of_tools() {
        for (text, found) in [
            ("Version: 4.2.1\nGitID: x", Some((4, 2))),
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", Some((2, 1))),
            ("containerd github.com/containerd/containerd v1.7.24~ds1 9", Some((1, 7))),
            ("runc version 1.3.6+ds1\ncommit: 1.3.6", Some((1, 3))),
            ("6.18.44-fc-v669", Some((6, 18))),
            ("4", None),
            ("no. 99999999999.1", None),
            ("", None),
        ] {
            assert_eq!(version(text), found, "{text}");
        }
    }
}
