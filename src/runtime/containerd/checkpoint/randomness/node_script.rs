//! The script by which Node draws new random numbers instead of stored ones.
//!
//! `crypto.randomUUID` and `crypto.randomInt` take numbers from stores that they fill at once: for 128 UUIDs, and for 1024
//! integers. What is in them when an app is frozen, all instances of the checkpoint would give to their visitors. How
//! much is used is a number on V8's heap, which cannot be found from outside. So a script that Node runs before the app
//! draws new numbers at each call.
//!
//! The script is a file in every container, and Node runs it because of a variable. If the image or the template sets
//! that variable itself, Node does not run it.

/// The path of the script in a container.
pub(in crate::runtime::containerd) const SCRIPT_PATH: &str = "/etc/try-it-now/node.cjs";

/// The name of the variable with Node's options.
pub(in crate::runtime::containerd) const VARIABLE: &str = "NODE_OPTIONS";

/// The value of that variable.
pub(in crate::runtime::containerd) const OPTIONS: &str = "--require=/etc/try-it-now/node.cjs";

/// The script.
pub(in crate::runtime::containerd) const SCRIPT: &str = include_str!("node.cjs");

/// Whether the environment of a process, as `/proc/PID/environ` has it, makes Node run the script.
pub(super) fn runs_script(environment: &[u8]) -> bool {
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| {
        let value = variable.strip_prefix(VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value
            .is_some_and(|value| value.split(|byte| *byte == b' ').any(|option| option == OPTIONS.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_runs_if_the_variable_names_it() {
        assert!(OPTIONS.ends_with(SCRIPT_PATH));
        for (environment, expected) in [
            ("A=1\0NODE_OPTIONS=--require=/etc/try-it-now/node.cjs\0B=2", true),
            ("NODE_OPTIONS=--max-old-space-size=64 --require=/etc/try-it-now/node.cjs", true),
            ("NODE_OPTIONS=--require=/etc/try-it-now/node.cjs2\0", false),
            ("X_NODE_OPTIONS=--require=/etc/try-it-now/node.cjs\0", false),
            ("NODE_OPTIONS=\0--require=/etc/try-it-now/node.cjs", false),
            ("", false),
        ] {
            assert_eq!(runs_script(environment.as_bytes()), expected, "{environment:?}");
        }
    }
}
