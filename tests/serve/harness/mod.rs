//! Starts servers and speaks HTTP to them.

mod client;
mod events;
mod processes;
mod server;

pub use client::{Answer, get, raw, request};
pub use events::Events;
pub use processes::{instance_folders, kill_app, processes_of};
pub use server::{Demo, Server};

use std::time::Duration;

/// The longest that anything here waits.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is `Some`; panics after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
