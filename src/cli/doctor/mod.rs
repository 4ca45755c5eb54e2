//! What this host can do: one line a check, each with a remedy where something is amiss.
//!
//! Each file looks at one thing: a function that reads the host, and one that judges what was read.

pub mod at_start;
mod check_result;
mod command;
mod containerd;
mod criu;
mod disk_and_memory;
mod kernel;
mod memory;
mod network;

use std::sync::Arc;

use crate::config::{Config, RuntimeMode};
use crate::runtime::Checkpoint;
use crate::runtime::tracefs::Tracefs;
use crate::store::{Store, StoreError};

pub use check_result::{CheckResult, Verdict, json, text};

/// Examines the host for what `config` asks of it, which changes nothing. What only another mode would need is a
/// warning at most. Takes seconds at worst: every command and connection has a deadline. `store` is the one that servers
/// share, if that is configured, and `baked` what there is of checkpoints.
pub async fn examine(
    config: &Config,
    store: Option<Arc<dyn Store>>,
    baked: &[Checkpoint],
) -> Vec<CheckResult> {
    let contained = config.runtime.mode == RuntimeMode::Containerd;
    let store = match store {
        None => embedded("store"),
        Some(store) => judge_store(store.ping().await),
    };
    let mut findings = vec![store, embedded("queue")];
    findings.extend(disk_and_memory::examine(&config.state_dir));
    findings.push(network::wildcard(&config.server.public.base_domain).await);
    let kernel = kernel::release();
    findings.push(kernel::judge_release(&kernel));
    findings.push(kernel::judge_capabilities(kernel::capabilities(None), contained));
    findings.push(kernel::judge_cgroups(&kernel::cgroups(), contained));
    let (found, daemon) = containerd::examine(&config.runtime.containerd_address, contained).await;
    findings.extend(found);
    if config.runtime.criu_enabled {
        findings.extend(criu::examine(&daemon, &kernel).await);
        if contained {
            findings.push(memory::judge_watching(Tracefs::open().map(drop)));
            findings.extend(config.templates.iter().flat_map(|template| memory::judge(template, baked)));
        }
    }
    let wanted = network::Wanted {
        containers: contained,
        egress: config.templates.iter().any(|template| !template.app.egress.is_sealed()),
        outside: &config.runtime.outside,
    };
    findings.extend(network::examine(&wanted).await);
    findings
}

/// Whether the configured mode works, by what was found.
pub fn works(findings: &[CheckResult]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Failed)
}

fn judge_store(answer: Result<(), StoreError>) -> CheckResult {
    match answer {
        Ok(()) => CheckResult::ok("store", "Valkey answers"),
        Err(error) => CheckResult::missing(
            "store",
            true,
            error.to_string(),
            "start Valkey, or set VALKEY_ADDR to where it listens",
        ),
    }
}

fn embedded(check: &'static str) -> CheckResult {
    CheckResult::ok(check, "embedded in the server")
}
