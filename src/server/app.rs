//! The composition root: the only file that names concrete backends.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{self, Front};
use super::checkup;
use super::dispatch::{Dispatch, Stop};
use super::downstream::Limits;
use super::drain::{Signals, Stopping};
use super::node::NodeFolder;
use super::once::{self, Cleaned, OnceError};
use super::tls::{Tls, TlsError};
use crate::api::Api;
use crate::clock::Clock;
use crate::config::{self, Config, Host};
use crate::nodes::{self, Asker, Beats, Directory, Secure};
use crate::pool::{self, Pool};
use crate::proxy::{self, Proxy};
use crate::request::{Hosts, UnderWay};
use crate::routes::{self, RouteTable, Told};
use crate::runtime::containerd::{self, ContainerdRuntime};
use crate::runtime::process::{self, ProcessRuntime};
use crate::runtime::{Baked, Runtime, RuntimeError};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::valkey::{self, ValkeyStore};
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

/// For a runtime that starts nothing.
const CLEANING_PORTS: RangeInclusive<u16> = 1..=1;

/// Runs the server until it is told to stop and has stopped. `file` is the file of templates, read again on SIGHUP.
pub async fn serve(config: Config, file: Option<PathBuf>, own_program: PathBuf) -> Result<(), StartError> {
    let signals = Signals::listen().map_err(StartError::Signals)?;
    checkup::begin(&config, shared_store(&config), baked(&config));
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
    let node = NodeFolder::take(&state_dir).map_err(state)?;
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
    let pool = Pool::new(pool::Parts {
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
    let secure = tls.as_ref().filter(|_| is_shared).map(|tls| Secure::new(tls.own()));
    let secure = secure.transpose().map_err(TlsError::from)?;
    let asker = Asker { directory: directory.clone(), secure: secure.clone(), key: api_key.clone() };
    let api = Api::new(pool.clone(), metrics.clone(), api_key, trusted.clone(), cut.clone());
    let api = Arc::new(if is_shared { api.with_others(asker) } else { api });
    let under_way = UnderWay::default();
    let proxy = Proxy::new(proxy::Parts {
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

    let beats = Beats {
        pool: pool.clone(),
        directory,
        address: node_config.address.unwrap_or_else(|| nodes::reached_at(bound).to_string()),
        secret: node_config.secret,
        timeout: node_config.timeout,
    };
    // Before anything is on record: what a server has that nobody ever heard ends with nobody.
    beats.run().await;
    crate::task::spawn("routes follow", follow(routes, store, metrics, pool.clone()));
    if let Some(tls) = &tls {
        crate::task::spawn("tls reload", tls.clone().reload());
    }
    pool.run().await;
    let connections = TaskTracker::new();
    let front =
        Front { dispatch, tls, max_connections: server.max_connections, connections: connections.clone() };
    crate::task::spawn("accept", accept::run(front, listener, stop));
    tracing::info!(address = %home, port, node = %node.id(), "listening");

    let reload = || reload(&pool, file.as_deref(), &own_program);
    signals.wait(reload).await;
    Stopping { begin: begin_stop, cut, connections, under_way, grace: server.shutdown_grace }
        .run(&pool)
        .await;
    Ok(())
}

/// Removes everything of ours from this host, whatever runs it: containers, processes, links and firewall tables,
/// checkpoints, and what a state folder remembers of them. Images stay, and so does the name of each node. A host that
/// never ran containers need not have a containerd.
///
/// # Errors
/// A server of that state folder runs, or something resists.
pub async fn clean(host: &Host, own_program: &Path) -> Result<Cleaned, OnceError> {
    let nodes = once::all_nodes(&host.state_dir)?;
    let address = &host.containerd_address;
    let (containers, snapshots) = if address.exists() || nodes.iter().any(|node| node.containers().exists()) {
        containerd::clean(address).await?
    } else {
        (0, 0)
    };
    for node in nodes.iter().filter(|node| node.instances().exists()) {
        // Whoever takes a node over ends what is left of it.
        drop(ProcessRuntime::open(processes(node, own_program, CLEANING_PORTS)).await?);
    }
    let network = containerd::clean_network().await?;
    Ok(Cleaned { containers, snapshots, network, paths: once::remove_all(&nodes)? })
}

/// Bakes the templates, or only the one of that name, as the server would when it starts, and tells how far it is.
///
/// # Errors
/// A server of that state folder runs, which bakes by itself; or why one could not be baked.
pub async fn bake(
    config: Config,
    own_program: PathBuf,
    only: Option<&str>,
    tell: impl FnMut(&str),
) -> Result<(), OnceError> {
    let names = once::names(&config.templates, only)?;
    let interrupted = once::interrupted().map_err(OnceError::Signals)?;
    // Let go at once, for the server's own way to take one takes the first of these.
    drop(once::all_nodes(&config.state_dir)?);
    let folder = config.state_dir.clone();
    let unusable = |source| OnceError::Folder { folder: folder.clone(), source };
    let node = NodeFolder::take(&folder).map_err(unusable)?;
    let secret = node.secret().map_err(unusable)?;
    let runtime = start_runtime(&node, &config.runtime, &own_program).await?;
    let clock = Clock::System;
    // What visitors have of a server that stopped goes on meanwhile.
    let store = open_store(&node, &*runtime, clock.clone()).map_err(unusable)?;
    let pool = Pool::new(pool::Parts {
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
    once::bake(&pool, names, interrupted, tell).await
}

/// The embedded store. It keeps what visitors have where that outlives the server.
fn open_store(node: &NodeFolder, runtime: &dyn Runtime, clock: Clock) -> io::Result<MemoryStore> {
    if runtime.outlives_the_server() {
        MemoryStore::open(clock, node.journal())
    } else {
        Ok(MemoryStore::new(clock))
    }
}

/// The store that servers share, as the doctor asks it whether it is there; `None` where it is embedded.
pub fn shared_store(config: &Config) -> Option<Arc<dyn Store>> {
    Some(Arc::new(ValkeyStore::new(valkey_settings(config.store.clone()?))))
}

/// What is baked on this host, as the doctor is told of it.
pub fn baked(config: &Config) -> Vec<Baked> {
    let nodes = NodeFolder::all_containers(&config.state_dir);
    nodes.iter().filter_map(|containers| containerd::baked(containers).ok()).flatten().collect()
}

/// The Valkey that the configuration names, or the embedded store.
fn choose_store(
    config: Option<config::Valkey>,
    node_timeout: Duration,
    node: &NodeFolder,
    runtime: &dyn Runtime,
    clock: &Clock,
) -> io::Result<Arc<dyn Store>> {
    Ok(match config {
        Some(config) => {
            let (own, patience) = (node.id().clone(), node_timeout);
            let settings = valkey::Settings { node: own, patience, ..valkey_settings(config) };
            Arc::new(ValkeyStore::open(settings, &node.claims())?)
        }
        None => Arc::new(open_store(node, runtime, clock.clone())?),
    })
}

/// Keeps the table in step with the store, and the pool in step with what others do.
async fn follow(routes: Arc<RouteTable>, store: Arc<dyn Store>, metrics: Arc<Metrics>, pool: Arc<Pool>) {
    let tell = |told: Told<'_>| match told {
        Told::Change(change) => pool.learn(change),
        Told::Missed => pool.missed(),
    };
    routes::follow(routes, store, metrics, tell).await;
}

fn valkey_settings(config: config::Valkey) -> valkey::Settings {
    let address = |address| match address {
        config::ValkeyAddress::Tcp(host, port) => valkey::Address::Tcp(host, port),
        config::ValkeyAddress::Unix(path) => valkey::Address::Unix(path),
    };
    let mode = match config.mode {
        config::ValkeyMode::Single => valkey::Mode::Single,
        config::ValkeyMode::Sentinel(service) => valkey::Mode::Sentinel { service },
        config::ValkeyMode::Cluster => valkey::Mode::Cluster,
    };
    valkey::Settings {
        addresses: config.addresses.into_iter().map(address).collect(),
        mode,
        username: config.username,
        password: config.password.map(|password| password.reveal().to_owned()),
        db: config.db.into(),
        tls: config.tls,
        ..valkey::Settings::default()
    }
}

async fn start_runtime(
    node: &NodeFolder,
    config: &config::Runtime,
    own_program: &Path,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    Ok(match config.mode {
        config::RuntimeMode::Process => {
            Arc::new(ProcessRuntime::open(processes(node, own_program, config.ports.clone())).await?)
        }
        config::RuntimeMode::Containerd => Arc::new(
            ContainerdRuntime::open(containerd::Settings {
                program: Some(own_program.to_owned()),
                address: config.containerd_address.clone(),
                folder: node.containers(),
                node: node.id().clone(),
                logins: config.logins.clone(),
                criu: config.criu_enabled,
                shared_memory: config.shared_memory.unwrap_or_else(containerd::a_quarter_of_the_memory),
                path: None,
                outside: config.outside.clone(),
                watcher: containerd::Watcher::default(),
            })
            .await?,
        ),
        #[cfg(feature = "runtime-none")]
        config::RuntimeMode::None => Arc::new(crate::runtime::none::NoRuntime::new(config.none_endpoint)),
    })
}

fn processes(node: &NodeFolder, own_program: &Path, ports: RangeInclusive<u16>) -> process::Settings {
    process::Settings {
        guardian: own_program.to_owned(),
        work: node.instances(),
        node: node.id().clone(),
        ports,
        log_limit: process::LOG_LIMIT,
    }
}

/// Takes over the file of templates anew. A mistake in it is told, and the old templates stay.
fn reload(pool: &Arc<Pool>, file: Option<&Path>, own_program: &Path) {
    match config::read(file, own_program) {
        Ok(config) => {
            tracing::info!(templates = config.templates.iter().len(), "the templates were read again");
            crate::task::spawn("templates reload", pool.reload(config.templates));
        }
        Err(mistakes) => tracing::error!(%mistakes, "the templates stay as they were"),
    }
}
