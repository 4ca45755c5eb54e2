//! Variables without effect: those that the program accepts for compatibility, and misspelt ones.

use super::env::Variables;
use super::errors::nearest_name;

/// The prefixes of variables about sizes and limits. A misspelt one of these would go unnoticed.
const CHECKED_PREFIXES: [&str; 2] = ["POOL_", "RATE_LIMIT_"];

/// Reads the variables of the original service that this program accepts but does not use. Their values are checked, so
/// that an invalid one shows when it is written.
pub(super) fn read_unused(env: &mut Variables<'_>, warnings: &mut Vec<String>) {
    if env.text("CADDY_ADMIN_URL").is_some() {
        warnings.push("CADDY_ADMIN_URL is ignored: the proxy is part of the server".to_owned());
    }
}

/// Returns a warning for each unknown variable whose name is nearly that of a variable about sizes or limits. `env` has
/// read all variables.
pub(super) fn misspelt(env: &Variables<'_>) -> Vec<String> {
    let is_checked = |name: &str| CHECKED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let known: Vec<&str> =
        env.settings().iter().map(|setting| setting.name).filter(|name| is_checked(name)).collect();
    env.names()
        .filter(|name| is_checked(name) && !known.contains(name))
        .filter_map(|name| {
            let meant = nearest_name(name, known.iter().copied())?;
            Some(format!("{name} is ignored: did you mean {meant}?"))
        })
        .collect()
}
