//! The one port: what stands between a socket and the two engines that answer on it.

pub mod downstream;
pub mod framing;
pub mod head;
