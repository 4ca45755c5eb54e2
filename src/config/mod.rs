//! What the operator wants.

mod template;

pub use template::{PoolSizes, ReadyCheck, Template};
mod templates;
pub use templates::{PublicAddress, Templates};
