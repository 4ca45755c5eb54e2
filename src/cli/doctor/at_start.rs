//! What the doctor says of this host, told in the log when a server starts.

use std::sync::Arc;

use super::Verdict;
use crate::cli::doctor;
use crate::config::{Config, RuntimeMode};
use crate::runtime::Checkpoint;
use crate::store::Store;

/// Has the host examined in the background where instances are containers, which need much of it. What is amiss is
/// logged with its remedy; the server starts all the same, and does what it can.
pub(crate) fn begin(config: &Config, store: Option<Arc<dyn Store>>, baked: Vec<Checkpoint>) {
    if config.runtime.mode != RuntimeMode::Containerd {
        return;
    }
    let config = config.clone();
    crate::telemetry::task::spawn("checkup", async move {
        for finding in doctor::examine(&config, store, &baked).await {
            let (check, found) = (finding.check, finding.found);
            let remedy = finding.remedy.unwrap_or_default();
            match finding.verdict {
                Verdict::Ok => tracing::debug!(check, found, "this host is fine"),
                Verdict::Warning => tracing::warn!(check, found, remedy, "this host could do better"),
                Verdict::Failed => {
                    tracing::error!(check, found, remedy, "this host cannot do what is configured")
                }
            }
        }
    });
}
