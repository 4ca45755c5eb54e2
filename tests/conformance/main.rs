//! What every implementation of a trait promises, one suite a trait, unchanged on each.

mod store;
