//! The Lua scripts: each transition is one call of one of them, so all of it happens or none.
//!
//! `prelude.lua` lists all keys and has what the scripts share. The arguments of a script have no names, only places:
//! to change a script, change its call in `store.rs`, `nodes.rs`, `scan.rs` or `recovery/` too. A new script that
//! changes something is added to the steps of `tests/backends/valkey/faults.rs`.
//!
//! # Two rules for scripts
//! - **A script that reads or changes instances is a [`Step`], never a plain `Script`.** The text of a step begins with
//!   the name of the term, and Valkey knows the step by the hash of its text. So only a Valkey process into which the
//!   step was loaded in that term runs it, see [`super::recovery`]. A plain `Script` is loaded on demand, also into a
//!   Valkey whose state is not verified.
//! - **A script that changes something is idempotent.** A call is made twice when the connection breaks, and the client
//!   of a Valkey cluster repeats more by itself. So each such script begins with `repeated_call.lua`, which answers a
//!   repeated call, and ends with `remember`. A claim has its token instead.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::{RedisResult, Script, cmd};

use super::transport::Transport;

/// Most records that one call changes: Valkey runs nothing else meanwhile.
pub(super) const RECORDS_PER_CALL: usize = 128;

/// Most claims that one call confirms. So many take well under a millisecond, for which other claims wait.
pub(super) const CONFIRMED_PER_CALL: usize = 32;

/// Most terms whose steps a node loads without a look at how many scripts Valkey has.
///
/// Valkey keeps each script until it ends, in memory that counts towards `maxmemory`: with the steps of each term
/// (about 0.2 MB) a Valkey that evicts keys, and so begins term after term, would have no room for the keys at last.
const MAX_TERMS: u64 = 6;

/// Most scripts that Valkey keeps then, those of other programs included.
const MAX_CACHED_SCRIPTS: u64 = 128;

/// A script that reads or changes instances.
#[derive(Debug)]
pub(super) struct Step {
    /// Its place among all steps.
    index: usize,
    text: &'static str,
}

/// All steps with the name of one term in their texts: the text and the hash of each.
#[derive(Debug)]
pub(super) struct TermSteps(Vec<(String, String)>);

impl TermSteps {
    /// Returns the hash by which Valkey knows a step.
    pub(super) fn hash(&self, step: &Step) -> &str {
        &self.0[step.index].1
    }

    /// Loads all steps into the Valkey process at the other end of a connection. Valkey forgets all scripts before if it
    /// has more than [`MAX_CACHED_SCRIPTS`] and this node loaded the steps of [`MAX_TERMS`] terms: `terms_loaded` counts
    /// them.
    ///
    /// # Errors
    /// The connection broke, or Valkey refused a script.
    pub(super) async fn load(&self, transport: &mut Transport, terms_loaded: &AtomicU64) -> RedisResult<()> {
        let mut all = redis::pipe();
        if terms_loaded.fetch_add(1, Ordering::Relaxed) >= MAX_TERMS
            && cached_scripts(transport).await? > MAX_CACHED_SCRIPTS
        {
            // A node that calls a script which Valkey does not know loads it again: it opens the term anew.
            all.add_command(cmd("SCRIPT").arg("FLUSH").clone()).ignore();
            terms_loaded.store(1, Ordering::Relaxed);
        }
        for (text, _) in &self.0 {
            all.add_command(cmd("SCRIPT").arg("LOAD").arg(text).clone()).ignore();
        }
        all.query_async(transport).await
    }
}

/// Returns how many scripts Valkey has; 0 if it does not report it.
async fn cached_scripts(transport: &mut Transport) -> RedisResult<u64> {
    let info: String = cmd("INFO").arg("memory").query_async(transport).await?;
    let count = info.lines().find_map(|line| line.strip_prefix("number_of_cached_scripts:"));
    Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}

macro_rules! text {
    (idempotent $name:expr) => {
        concat!(
            include_str!("prelude.lua"),
            include_str!("repeated_call.lua"),
            include_str!(concat!($name, ".lua"))
        )
    };
    ($name:expr) => {
        concat!(include_str!("prelude.lua"), include_str!(concat!($name, ".lua")))
    };
}

macro_rules! scripts {
    (
        idempotent steps: $($change:ident)*; steps: $($step:ident)*;
        other idempotent scripts: $($named:ident)*; other scripts: $($other:ident)*;
    ) => {
        /// All scripts, each named as its file. The first argument of an idempotent one is the name of the call.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $change: Step,)*
            $(pub(super) $step: Step,)*
            $(pub(super) $named: Script,)*
            $(pub(super) $other: Script,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                let mut indices = 0..;
                let mut step = |text| Step { index: indices.next().expect("the range is infinite"), text };
                Self {
                    $($change: step(text!(idempotent stringify!($change))),)*
                    $($step: step(text!(stringify!($step))),)*
                    $($named: Script::new(concat!("#!lua flags=allow-oom\n", text!(idempotent stringify!($named)))),)*
                    $($other: Script::new(concat!("#!lua flags=allow-oom\n", text!(stringify!($other)))),)*
                }
            }

            fn steps(&self) -> Vec<&Step> {
                vec![$(&self.$change,)* $(&self.$step),*]
            }
        }
    };
}

scripts! {
    idempotent steps: insert offer withdraw confirm undo_claim extend release retire fail sweep drain evict_node
        forget_evicted;
    steps: claim get list routes route_events nodes;
    other idempotent scripts: heartbeat;
    other scripts: acknowledge_nodes audit recover_begin recover_rebuild recover_nodes recover_report recover_finish;
}

/// Returns the line that begins a script, with which Valkey checks before the first command whether it may write.
///
/// Without it a script fails at the first command that is refused, when commands before it have changed something
/// already. In a full Valkey only the steps that add a record or a token are refused: all others end something, or keep
/// the nodes in touch.
fn first_line(adds_records: bool) -> &'static str {
    if adds_records { "#!lua\n" } else { "#!lua flags=allow-oom\n" }
}

/// Returns a script without comments and indentation. Valkey keeps the steps of several terms, so a step should be
/// short.
fn code_of(text: &str) -> String {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("--"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

impl Scripts {
    fn adds_records(&self, step: &Step) -> bool {
        [&self.insert, &self.offer, &self.claim].iter().any(|one| one.index == step.index)
    }

    /// Returns the steps of a term. Its name must not contain quotes.
    pub(super) fn steps_of(&self, term: &str) -> TermSteps {
        let steps = self.steps().into_iter().map(|step| {
            let first_line = first_line(self.adds_records(step));
            let check = include_str!("check_term.lua");
            let text = format!("{first_line}local TERM = '{term}'\n{}{}", code_of(check), code_of(step.text));
            let hash = Script::new(&text).get_hash().to_owned();
            (text, hash)
        });
        TermSteps(steps.collect())
    }
}
