//! The composition root: assembles the parts of a server and runs them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backends::{choose_store, start_runtime};
use super::dispatch::{Dispatch, Stop};
use super::http1_guard::Limits;
use super::listener;
use super::listener::ListenerContext;
use super::shutdown::{Signals, Stopping};
use super::state_dir::NodeDir;
use super::tls::{Tls, TlsError};
use crate::api::Api;
use crate::clock::Clock;
use crate::cluster;
use crate::cluster::{Directory, Heartbeat, PeerClient, PeerTls};
use crate::config::{self, Config};
use crate::pool::{self, Pool};
use crate::proxy::routes;
use crate::proxy::routes::{FollowEvent, RouteTable};
use crate::proxy::{self, Proxy};
use crate::request::{Hosts, InFlightRequests};
use crate::runtime::RuntimeError;
use crate::store::Store;
use crate::telemetry::Metrics;

/// Why the server did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder for what must be remembered cannot be used.
    #[error("cannot use the state folder {folder}: {source}")]
    State {
        /// Which one.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate or the key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What a crashed server left could not be cleaned up.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] RuntimeError),
    /// The system gives no signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Runs the server until it is told to stop and has stopped. `file` is the file of templates, read again on SIGHUP.
pub async fn serve(config: Config, file: Option<PathBuf>, own_program: PathBuf) -> Result<(), StartError> {
    let signals = Signals::listen().map_err(StartError::Signals)?;
    let Config {
        server,
        runtime: runtime_config,
        templates,
        state_dir,
        api_key,
        acquire_timeout,
        store: store_config,
        node: node_config,
        ..
    } = config;
    let tls = server.tls.map(Tls::load).transpose()?.map(Arc::new);
    let address = server.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
    let bound = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
    let port = bound.port();
    let mut public = server.public;
    public.bound(port);

    let state = |source| StartError::State { folder: state_dir.clone(), source };
    let node = NodeDir::take(&state_dir).map_err(state)?;
    let runtime = start_runtime(&node, &runtime_config, &own_program).await?;
    let clock = Clock::System;
    let is_shared = store_config.is_some();
    // What hooks made on one server is told by another.
    let secret = if is_shared { None } else { Some(node.secret().map_err(state)?) };
    let store = choose_store(store_config, node_config.timeout, &node, &*runtime, &clock).map_err(state)?;
    let routes = Arc::new(RouteTable::default());
    let metrics = Arc::new(Metrics::new());
    metrics.can_restore(runtime.restores());
    let hosts = Arc::new(Hosts::new(&public.base_domain, server.api_hosts));
    let home = public.home_url();
    let pool = Pool::new(pool::PoolParts {
        store: store.clone(),
        runtime,
        routes: routes.clone(),
        metrics: metrics.clone(),
        clock,
        node: node.id().clone(),
        secret,
        address: public,
        templates,
        acquire_timeout,
    });

    let (begin_stop, stopping) = watch::channel(false);
    let cut = CancellationToken::new();
    let stop = Stop::new(stopping, cut.clone());
    let trusted = server.trusted_proxies;
    let directory = Arc::new(Directory::alone(node.id().clone()));
    let secure = tls.as_ref().filter(|_| is_shared).map(|tls| PeerTls::new(tls.own()));
    let secure = secure.transpose().map_err(TlsError::from)?;
    let asker = PeerClient { directory: directory.clone(), secure: secure.clone(), key: api_key.clone() };
    let api = Api::new(pool.clone(), metrics.clone(), api_key, trusted.clone(), cut.clone());
    let api = Arc::new(if is_shared { api.with_others(asker) } else { api });
    let under_way = InFlightRequests::default();
    let proxy = Proxy::new(proxy::ProxyParts {
        hosts,
        api: api.clone(),
        routes: routes.clone(),
        pool: pool.clone(),
        directory: directory.clone(),
        secure,
        metrics: metrics.clone(),
        trusted,
        read_timeout: server.read_timeout,
        write_timeout: server.write_timeout,
        under_way: under_way.clone(),
    });
    let limits = Limits { write: server.write_timeout, ..Limits::default() };
    let dispatch = Dispatch::new(api, proxy, limits, server.read_timeout, stop.clone());

    let beats = Heartbeat {
        pool: pool.clone(),
        directory,
        address: node_config.address.unwrap_or_else(|| cluster::reached_at(bound).to_string()),
        secret: node_config.secret,
        timeout: node_config.timeout,
    };
    // Before anything is on record: what a server has that nobody ever heard ends with nobody.
    beats.run().await;
    crate::telemetry::task::spawn("routes follow", follow(routes, store, metrics, pool.clone()));
    if let Some(tls) = &tls {
        crate::telemetry::task::spawn("tls reload", tls.clone().reload());
    }
    pool.run().await;
    let connections = TaskTracker::new();
    let front = ListenerContext {
        dispatch,
        tls,
        max_connections: server.max_connections,
        connections: connections.clone(),
    };
    crate::telemetry::task::spawn("accept", listener::run(front, listener, stop));
    tracing::info!(address = %home, port, node = %node.id(), "listening");

    let reload = || reload(&pool, file.as_deref(), &own_program);
    signals.wait(reload).await;
    Stopping { begin: begin_stop, cut, connections, under_way, grace: server.shutdown_grace }
        .run(&pool)
        .await;
    Ok(())
}

/// Keeps the table in step with the store, and the pool in step with what others do.
async fn follow(routes: Arc<RouteTable>, store: Arc<dyn Store>, metrics: Arc<Metrics>, pool: Arc<Pool>) {
    let tell = |told: FollowEvent<'_>| match told {
        FollowEvent::Change(change) => pool.apply_change(change),
        FollowEvent::Missed => pool.resync(),
    };
    routes::follow(routes, store, metrics, tell).await;
}

/// Takes over the file of templates anew. A mistake in it is told, and the old templates stay.
fn reload(pool: &Arc<Pool>, file: Option<&Path>, own_program: &Path) {
    match config::read(file, own_program) {
        Ok(config) => {
            tracing::info!(templates = config.templates.iter().len(), "the templates were read again");
            crate::telemetry::task::spawn("templates reload", pool.reload(config.templates));
        }
        Err(mistakes) => tracing::error!(%mistakes, "the templates stay as they were"),
    }
}
