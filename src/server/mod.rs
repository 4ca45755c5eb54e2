//! The one port: accept a connection, check each head, let the right engine answer; and how the parts are put
//! together.

pub mod accept;
pub mod app;
mod checkup;
pub mod dispatch;
pub mod downstream;
pub mod drain;
pub mod framing;
pub mod head;
pub mod http1;
pub mod node;
pub mod once;
#[cfg(test)]
mod passing_tests;
mod pipe;
pub mod tls;
