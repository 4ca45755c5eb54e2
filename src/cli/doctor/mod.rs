//! `doctor`: checks the host and prints a fix for each problem.
//!
//! Each file checks one thing: one function reads the host, and another one judges what was read. `check_result.rs` is
//! the result of a check and its output, `tool.rs` runs external tools, and `at_start.rs` runs all checks when a server
//! starts.
//!
//! **A check must have a deadline and change nothing**, because the checks also run at each start of a server.

pub(super) mod at_start;
mod cgroup_changes;
mod check_result;
mod containerd;
mod criu;
mod database;
mod disk_and_memory;
mod engine;
mod eviction;
mod forwarded_fields;
mod hardening;
mod instance_limits;
mod kernel;
mod known_holes;
mod memory_sharing;
mod nats;
mod network;
mod open_files;
mod random_numbers;
mod runtime_handlers;
mod tool;
mod user_namespaces;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::command::{FAILURE, fail, read_config};
use crate::config::{Config, Origin, RuntimeMode};
use crate::runtime::Checkpoint;
use crate::runtime::tracefs::Tracefs;
use crate::server::backends;
use crate::store::{Store, StoreError};

use check_result::{CheckResult, Verdict, json, mode_works, text};

/// Checks the host and prints the results. The exit status says whether the configured mode works. `url` is where
/// visitors reach the server, if not at `PUBLIC_URL`.
pub(super) fn run(file: Option<&Path>, as_json: bool, url: Option<Origin>) -> ExitCode {
    let (config, _) = match read_config(file) {
        Ok(read) => read,
        Err(status) => return status,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, format!("cannot start: {error}")),
    };
    let store = backends::shared_store(&config);
    let baked = backends::baked_checkpoints(&config);
    let url = url.unwrap_or_else(|| config.server.public.home_origin());
    let results = runtime.block_on(async {
        let mut results = check_host(&config, store, &baked).await;
        // Not part of the checks at start, when the server does not answer yet.
        results.push(forwarded_fields::check(&url, &config.server).await);
        results
    });
    // Not dropped, which would wait for the thread of a DNS lookup that has passed its deadline.
    runtime.shutdown_background();
    let output = if as_json { json(&results) } else { text(&results) };
    if let Err(error) = std::io::stdout().write_all(output.as_bytes()) {
        return fail(FAILURE, error);
    }
    if mode_works(&results) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the problem with the containerd at an address and its remedy; `None` if it answers.
pub(super) async fn containerd_problem(address: &Path) -> Option<String> {
    let (results, _) = containerd::check(address, true).await;
    let socket = results.into_iter().find(|result| result.verdict == Verdict::Failed)?;
    Some(match socket.remedy {
        Some(remedy) => format!("{} ({}); {remedy}", socket.check, socket.found),
        None => socket.found,
    })
}

/// Checks the host for what `config` needs, and changes nothing. What only another mode needs is a warning at most.
/// Takes seconds at most, because every tool and every connection has a deadline. `store` is the store that nodes
/// share, if one is configured, and `baked` are the checkpoints on this host.
async fn check_host(
    config: &Config,
    store: Option<Arc<dyn Store>>,
    baked: &[Checkpoint],
) -> Vec<CheckResult> {
    let containers = config.runtime.mode == RuntimeMode::Containerd;
    let store = match store {
        None => CheckResult::ok("store", "embedded in the server"),
        Some(store) => judge_store(store.ping().await),
    };
    let mut results = vec![store];
    results.extend(eviction::check(config).await);
    results.extend(database::check(config).await);
    results.push(nats::check(config).await);
    results.extend(disk_and_memory::check(&config.state_dir));
    results.push(open_files::check(config));
    results.push(forwarded_fields::judge_trust(&config.server.trusted_proxies, config.runtime.mode));
    results.push(network::check_wildcard_dns(&config.server.public.base_domain).await);
    results.extend(engine::check(&config.runtime).await);
    let kernel = kernel::release();
    results.push(kernel::judge_release(&kernel));
    results.push(kernel::judge_capabilities(kernel::capabilities(None), containers));
    results.push(kernel::judge_cgroups(&kernel::cgroups(), containers));
    results.extend(hardening::check(Path::new("/")));
    let (of_containerd, containerd) = containerd::check(&config.runtime.containerd_address, containers).await;
    results.extend(of_containerd);
    results.push(instance_limits::check(&config.runtime, containers));
    if containers {
        results.push(cgroup_changes::check(&kernel, config.runtime.fast_cgroup_changes).await);
        results.extend(user_namespaces::check(config, &containerd, &kernel));
    }
    results.extend(runtime_handlers::check(&containerd, config.templates.iter()));
    if config.runtime.criu_enabled {
        results.extend(criu::check(&containerd, &kernel).await);
        if containers {
            results.push(memory_sharing::judge_tracing(Tracefs::mount().map(drop)));
            for template in config.templates.iter() {
                results.extend(memory_sharing::judge(template, baked));
                results.extend(random_numbers::judge(template, baked));
            }
        }
    }
    let needs = network::NetworkNeeds {
        containers,
        egress: config.templates.iter().any(|template| !template.app.egress.is_sealed()),
        settings: &config.runtime.egress,
    };
    results.extend(network::check(&needs).await);
    results
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
