//! `bake`: makes checkpoints ahead of a server's start.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::error::CommandError;
use super::state::all_nodes;
use crate::clock::Clock;
use crate::config::Config;
use crate::pool::{self, Baked, Pool};
use crate::proxy::routes::RouteTable;
use crate::server::backends::{open_store, start_runtime};
use crate::server::state_dir::NodeDir;
use crate::telemetry::Metrics;
use crate::template::Templates;

/// Bakes the templates, or only the one of that name, as the server would when it starts, and tells how far it is.
///
/// # Errors
/// A server of that state folder runs, which bakes by itself; or why one could not be baked.
pub(super) async fn bake(
    config: Config,
    own_program: PathBuf,
    only: Option<&str>,
    tell: impl FnMut(&str),
) -> Result<(), CommandError> {
    let names = names(&config.templates, only)?;
    let interrupted = interrupted().map_err(CommandError::Signals)?;
    // Let go at once, for the server's own way to take one takes the first of these.
    drop(all_nodes(&config.state_dir)?);
    let folder = config.state_dir.clone();
    let unusable = |source| CommandError::Folder { folder: folder.clone(), source };
    let node = NodeDir::take(&folder).map_err(unusable)?;
    let secret = node.secret().map_err(unusable)?;
    let runtime = start_runtime(&node, &config.runtime, &own_program).await?;
    let clock = Clock::System;
    // What visitors have of a server that stopped goes on meanwhile.
    let store = open_store(&node, &*runtime, clock.clone()).map_err(unusable)?;
    let pool = Pool::new(pool::PoolParts {
        store: Arc::new(store),
        runtime,
        routes: Arc::new(RouteTable::default()),
        metrics: Arc::new(Metrics::new()),
        clock,
        node: node.id().clone(),
        secret: Some(secret),
        address: config.server.public,
        templates: config.templates,
        acquire_timeout: config.acquire_timeout,
    });
    bake_all(&pool, names, interrupted, tell).await
}

/// The names of the templates to bake: that one, or all.
fn names(templates: &Templates, only: Option<&str>) -> Result<Vec<String>, CommandError> {
    let all: Vec<_> = templates.iter().map(|template| template.name.as_str().to_owned()).collect();
    match only {
        None => Ok(all),
        Some(name) if all.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(CommandError::NoTemplate { asked: name.to_owned(), known: all.join(", ") }),
    }
}

/// Bakes them one after another, and ends all that it started. Gives up when `interrupted` is done.
async fn bake_all(
    pool: &Arc<Pool>,
    names: Vec<String>,
    interrupted: impl Future<Output = ()>,
    mut tell: impl FnMut(&str),
) -> Result<(), CommandError> {
    let baking = async {
        for name in names {
            tell(&format!("{name}: fetching, starting and warming up an instance"));
            let begun = Instant::now();
            match pool.bake(&name).await {
                Ok(Baked::Already) => {
                    tell(&format!("{name}: was baked before, and nothing has changed since"))
                }
                Ok(Baked::Now) => tell(&format!("{name}: baked in {}", seconds(begun.elapsed()))),
                Err(source) => return Err(CommandError::Bake { template: name, source }),
            }
            if let Some(about) = pool.about_golden(&name).await {
                tell(&format!("{name}: {about}"));
            }
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = baking => outcome,
        () = interrupted => Err(CommandError::Interrupted),
    };
    pool.drain().await;
    outcome
}

/// Done at the first SIGINT or SIGTERM from the call on.
fn interrupted() -> io::Result<impl Future<Output = ()>> {
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
