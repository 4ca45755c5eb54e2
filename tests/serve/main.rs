//! The whole server: the real program, spoken to over real sockets.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod contract;
mod harness;
mod mixing;
mod proxying;
mod smuggling;
