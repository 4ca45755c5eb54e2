//! What `/proc` says of a process in a container.

/// Returns the number of a process in the innermost of its PID namespaces, from its `status`.
pub(super) fn innermost_pid(status: &str) -> Option<u32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_number_of_a_process_is_the_last() {
        assert_eq!(innermost_pid("Name:\tNSpid: 3\nNSpid:\t4711\t12\nNSsid:\t1\n"), Some(12));
        assert_eq!(innermost_pid("Name:\tx\n"), None);
    }
}
