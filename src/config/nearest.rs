//! The name that was probably meant.

/// The known name that is fewest changes of one character away, at most a third of the written name's length.
pub(super) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let most = (written.chars().count() / 3).max(1);
    let (changes, name) = known.into_iter().map(|name| (changes(written, name), name)).min()?;
    (changes <= most).then_some(name)
}

/// Insertions, deletions and replacements of a character that make `b` of `a` (Levenshtein).
fn changes(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_when_it_is_near_enough() {
        let known = ["ttl", "max_ttl", "warm_up", "admin_path"];
        assert_eq!(nearest("warmup", known), Some("warm_up"));
        assert_eq!(nearest("admin-path", known), Some("admin_path"));
        assert_eq!(nearest("tll", known), Some("ttl"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", []), None);
    }

    #[test]
    fn changes_are_counted() {
        for (a, b, n) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(changes(a, b), n);
            assert_eq!(changes(b, a), n);
        }
    }
}
