//! TODO

pub(super) mod bake;
pub(super) mod catalog;
pub(super) mod criu;
pub(super) mod prefault;
pub(super) mod restore;
pub(super) mod sharing;
