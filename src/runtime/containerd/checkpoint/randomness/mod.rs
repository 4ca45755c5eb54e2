//! Random numbers that differ between the instances of a checkpoint.
//!
//! Instances of a checkpoint start with the same memory, so a generator that keeps its state in memory would give all of
//! them the same numbers. Many generators notice that they are in a child process, and are seeded anew then. So the bake
//! changes what they look at, and each instance seeds them when it first draws a number. It does so for every
//! checkpoint, whether its memory is shared or not.
//!
//! | file | content |
//! |---|---|
//! | `reset` | the change of a checkpoint's images |
//! | `openssl` | OpenSSL's generators in memory |
//! | `generator_scan` | which generators an app's programs and libraries have |
//! | `node_script` | the script by which Node draws new numbers instead of stored ones |
//! | `report` | what was done and what may repeat, as it is stored with a checkpoint |
//!
//! What an operator has to know of each generator is in `docs/random-numbers.md`.
//!
//! # Traps
//! Only generators whose numbers cannot be guessed, as they promise, are changed. The state of others, such as
//! `Math.random`, is not found from outside.

mod generator_scan;
pub(in crate::runtime::containerd) mod node_script;
mod openssl;
mod report;
mod reset;

#[cfg(test)]
mod tests;

pub(super) use generator_scan::{GeneratorScan, scan_generators};
pub(super) use report::RandomNumbers;
pub(super) use reset::reset;
