//! Starts servers and speaks HTTP to them.

mod client;
mod event_stream;
pub mod fake_upstream;
mod http2;
mod processes;
mod raw_connection;
mod server;
mod tls;
pub mod websocket;

pub use client::{Answer, attempt, get, raw, request};
pub use event_stream::Events;
pub use http2::{h2_ask, h2_get, h2_over, h2_whole, h2c};
pub use processes::{instance_folders, kill_app, processes_of};
pub use raw_connection::Wire;
pub use server::{Demo, Server};
pub use tls::Certificate;

use std::time::Duration;

/// The longest that anything here waits.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is `Some`; panics after [`PATIENCE`].
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same with a deadline of its own.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
