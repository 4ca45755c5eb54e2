//! The checks of the doctor when a server starts.

use std::sync::Arc;

use super::{Verdict, check_host};
use crate::config::{Config, RuntimeMode};
use crate::runtime::Checkpoint;
use crate::store::Store;
use crate::telemetry::task;

/// Checks the host in the background if instances are containers, which need much of the host. Problems are logged with
/// their remedies. The server starts in any case, and does what it can.
pub(crate) fn check_in_background(config: &Config, store: Option<Arc<dyn Store>>, baked: Vec<Checkpoint>) {
    if config.runtime.mode != RuntimeMode::Containerd {
        return;
    }
    let config = config.clone();
    task::spawn("host check", async move {
        for result in check_host(&config, store, &baked).await {
            let (check, found) = (result.check, result.found);
            let remedy = result.remedy.unwrap_or_default();
            match result.verdict {
                Verdict::Ok => tracing::debug!(check, found, "host check passed"),
                Verdict::Warning => tracing::warn!(check, found, remedy, "host check found a problem"),
                Verdict::Failed => {
                    tracing::error!(check, found, remedy, "host does not support the configured mode");
                }
            }
        }
    });
}
