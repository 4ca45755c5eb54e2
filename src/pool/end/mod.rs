//! TODO

pub(super) mod drain;
pub(super) mod expire;
pub(super) mod gc;
pub(super) mod release;
