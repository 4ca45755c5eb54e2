//! `bake`: makes checkpoints before a server starts.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::command::{FAILURE, fail, print_line, read_config, run_async};
use super::error::CommandError;
use super::idle_nodes;
use crate::clock::Clock;
use crate::config::Config;
use crate::pool::{self, BakeOutcome, Pool};
use crate::proxy::routes::RouteTable;
use crate::server::backends::{
    embedded_queue, open_databases, open_memory_store, start_runtime, store_hosts,
};
use crate::server::state_dir::NodeDir;
use crate::telemetry::{self, Metrics};
use crate::template::{NodeSecret, Templates};

/// Bakes the template of the name `only`, or all templates, and prints the progress.
pub(super) fn run(file: Option<&Path>, only: Option<&str>) -> ExitCode {
    let (config, own_program) = match read_config(file) {
        Ok(read) => read,
        Err(status) => return status,
    };
    let _logging = match telemetry::init(config.log) {
        Ok(guard) => guard,
        Err(error) => return fail(FAILURE, error),
    };
    run_async(tokio::runtime::Builder::new_multi_thread(), bake(config, own_program, only))
}

/// Bakes as a server does when it starts.
///
/// # Errors
/// A server uses the state folder, which bakes by itself; or a template could not be baked.
async fn bake(config: Config, own_program: PathBuf, only: Option<&str>) -> Result<(), CommandError> {
    let names = names(&config.templates, only)?;
    let interrupted = interrupted().map_err(CommandError::Signals)?;
    // Unlocked at once, because a node takes the first folder that is not locked.
    drop(idle_nodes::lock_all(&config.state_dir)?);
    let folder = config.state_dir.clone();
    let unusable = |source| CommandError::Folder { folder: folder.clone(), source };
    let node = NodeDir::lock_any(&folder).map_err(unusable)?;
    let secret = node.secret().map_err(unusable)?;
    let (_, forbidden_hosts) = watch::channel(store_hosts(config.store.as_ref()));
    let runtime = start_runtime(&node, &config.runtime, &own_program, None, forbidden_hosts).await?;
    let clock = Clock::System;
    // The journal is read, so that assigned instances of a server that stopped keep running.
    let store = open_memory_store(&node, &*runtime, clock.clone()).map_err(unusable)?;
    let pool = Pool::new(pool::PoolParts {
        store: Arc::new(store),
        runtime,
        databases: open_databases(config.database, node.id()),
        queue: embedded_queue(config.queue.workers),
        routes: Arc::new(RouteTable::default()),
        metrics: Arc::new(Metrics::new()),
        clock,
        node: node.id().clone(),
        secret: Some(NodeSecret::random(secret)),
        public_url: Arc::new(config.server.public),
        templates: config.templates,
        acquire_timeout: config.acquire_timeout,
    });
    bake_all(&pool, names, interrupted).await
}

/// Returns the names of the templates to bake.
fn names(templates: &Templates, only: Option<&str>) -> Result<Vec<String>, CommandError> {
    let all: Vec<_> = templates.iter().map(|template| template.name.as_str().to_owned()).collect();
    match only {
        None => Ok(all),
        Some(name) if all.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(CommandError::NoTemplate { requested: name.to_owned(), known: all.join(", ") }),
    }
}

/// Bakes templates one after another until all are baked or `interrupted` completes. Ends all instances that it
/// started.
async fn bake_all(
    pool: &Pool,
    names: Vec<String>,
    interrupted: impl Future<Output = ()>,
) -> Result<(), CommandError> {
    let baking = async {
        for name in names {
            if !pool.supply.has_runtime_handler(&name) {
                print_line(&format!("{name}: fetching, starting and warming up an instance"));
            }
            let begun = Instant::now();
            match pool.supply.bake(&name).await {
                Ok(BakeOutcome::AlreadyBaked) => {
                    print_line(&format!("{name}: already baked, and nothing has changed since"));
                }
                // Its description says why.
                Ok(BakeOutcome::NeverBaked) => {}
                Ok(BakeOutcome::Baked { repeated }) => {
                    print_line(&format!("{name}: baked in {}", seconds(begun.elapsed())));
                    if !repeated.is_empty() {
                        print_line(&format!(
                            "{name}: WARNING: two restored instances drew the same values: {}; visitors can \
                             predict those of others (see docs/random-numbers.md)",
                            repeated.join(", ")
                        ));
                    }
                }
                Err(source) => return Err(CommandError::Bake { template: name, source }),
            }
            for description in pool.supply.describe_checkpoint(&name).await {
                print_line(&format!("{name}: {description}"));
            }
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = baking => outcome,
        () = interrupted => Err(CommandError::Interrupted),
    };
    pool.shut_down().await;
    outcome
}

/// Returns a future that completes at the first SIGINT or SIGTERM after this call.
pub(super) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
