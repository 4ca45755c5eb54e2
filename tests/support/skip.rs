//! Skipping a test whose backend is missing.

/// Prints why a test is skipped.
///
/// # Panics
/// Panics where no test may be skipped (`TRY_IT_NOW_NO_SKIPS=1`, as CI sets it).
#[expect(clippy::print_stdout, reason = "the reason for a skipped test goes to the output of the test")]
pub fn skip(why: &str) {
    assert!(std::env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"), "skipped: {why}");
    println!("skipped: {why}");
}
