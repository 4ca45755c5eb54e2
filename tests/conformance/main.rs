//! What every implementation of a trait promises, one suite a trait, unchanged on each.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]

mod runtime;
mod stack;
mod store;
mod traces;
