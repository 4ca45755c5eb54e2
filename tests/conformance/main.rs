//! One suite a trait, run unchanged on every implementation.

mod runtime;
