//! Random bytes for what must not repeat, but is no secret.

use std::cell::RefCell;

/// Bytes that a thread asks the system for at once.
const AT_ONCE: usize = 512;

thread_local! {
    /// What the system gave and nobody has used, at the end.
    static STOCK: RefCell<([u8; AT_ONCE], usize)> = const { RefCell::new(([0; AT_ONCE], 0)) };
}

/// Bytes from the system's random source, got many at a time: asking costs more than all else that such a number is
/// for. They lie in memory before they are used, so secrets are not made of them.
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= AT_ONCE) };
    STOCK.with_borrow_mut(|(stock, left)| {
        if *left < N {
            getrandom::fill(stock).expect("the operating system gives random bytes");
            *left = AT_ONCE;
        }
        let mut taken = [0; N];
        taken.copy_from_slice(&stock[*left - N..*left]);
        *left -= N;
        taken
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_given_twice() {
        let given: std::collections::HashSet<[u8; 10]> = (0..10_000).map(|_| bytes()).collect();
        assert_eq!(given.len(), 10_000);
    }
}
