//! TODO

pub(super) mod acquire;
pub(super) mod delivery;
pub(super) mod delivery_worker;
pub(super) mod wait_queue;
