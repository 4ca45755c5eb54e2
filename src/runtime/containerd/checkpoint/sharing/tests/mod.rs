//! Tests of the rewriting of checkpoints, with hostile images and with those that CRIU writes.

mod fixture;
mod hostile;
mod round_trip;
