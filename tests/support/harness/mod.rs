//! Starts servers and sends HTTP to them.

mod client;
mod event_stream;
pub mod fake_upstream;
mod http2;
mod processes;
mod raw_connection;
mod server;
mod tls;
pub mod websocket;

pub use client::{Answer, get, request, send_raw, try_request};
pub use event_stream::EventStream;
pub use http2::{h2_collect, h2_get, h2_over, h2_request, h2c};
pub use processes::{instance_folders, kill_app, processes_of};
pub use raw_connection::{RawConnection, Transport};
pub use server::{AcquiredInstance, Server};
pub use tls::Certificate;

use std::time::Duration;

/// The longest time that any helper here waits.
pub const MAX_WAIT: Duration = Duration::from_secs(20);

/// Polls `ask` until it returns `Some`. Panics after [`MAX_WAIT`].
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(MAX_WAIT, what, ask).await
}

/// Polls `ask` until it returns `Some`. Panics after `limit`.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}
