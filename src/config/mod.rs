//! What the operator wants.

mod template;

pub use template::{PoolSizes, ReadyCheck, Template};
