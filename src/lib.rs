//! Try It Now.
pub mod clock;
pub mod task;
