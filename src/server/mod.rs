//! The one port: accept a connection, check each head, let the right engine answer; and how the parts are put
//! together.

pub mod backends;
pub mod bootstrap;
pub mod dispatch;
pub mod http1_guard;
pub mod hyper_connection;
pub mod listener;
#[cfg(test)]
mod node_forwarding_tests;
mod pingora_pipe;
pub mod shutdown;
pub mod state_dir;
pub mod tls;
