//! The composition root: assembles the parts of a server, runs it, and shuts it down.
//!
//! [`serve`] reads in order: the port, the node and its backends, the pool, the API and the proxy, the tasks
//! in the background, the listener, and at last the shutdown.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backends::{open_store, start_runtime};
use super::client_connections::ConnectionMaxima;
use super::descriptors::{self, OpenFileLimits};
use super::dispatch::Dispatcher;
use super::forbidden_hosts::ForbiddenHosts;
use super::http1_guard::ClientTimeouts;
use super::listener::{self, ListenerContext};
use super::shutdown::{ProcessSignals, ShutdownSequence, StopSignal};
use super::state_dir::{self, NodeDir};
use super::tls::{ServerTls, TlsError};
use crate::api::{Api, ApiKey, TrustedOrigins};
use crate::clock::Clock;
use crate::cluster::{self, Directory, Heartbeat, PeerClient, PeerTls};
use crate::config::{self, Config, RuntimeMode};
use crate::pool::{self, Pool};
use crate::proxy::routes::{self, FollowEvent, RouteTable};
use crate::proxy::{self, Proxy, RequestLimits, RequestMaxima};
use crate::request::{ClientPermits, Hosts, InFlightRequests};
use crate::runtime::RuntimeError;
use crate::store::Store;
use crate::telemetry::{Metrics, task};
use crate::template::{NodeSecret, Secret};

/// Why the server did not start. Everything that was started before the error is ended again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The state folder cannot be read or written.
    #[error("cannot use the state folder {folder}: {source}")]
    State {
        /// The configured folder.
        folder: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The certificate or the private key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The runtime cannot be reached, or cannot remove what a crashed server left.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] RuntimeError),
    /// The system refuses signal handlers.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Runs the server until a signal asks it to shut down and it has done so. `file` is the file of templates, which is
/// read again on SIGHUP. `own_program` is the path of this program, which the runtimes start in other roles.
///
/// # Errors
/// The server cannot start; see [`StartError`].
pub async fn serve(config: Config, file: Option<PathBuf>, own_program: PathBuf) -> Result<(), StartError> {
    let signals = ProcessSignals::listen().map_err(StartError::Signals)?;
    let open_files = descriptors::raise();
    let Config {
        server,
        runtime: runtime_settings,
        templates,
        state_dir,
        api_key,
        acquire_timeout,
        store: store_settings,
        node: node_settings,
        ..
    } = config;

    // The port. It is bound first: a second server on it ends here and touches nothing.
    let tls = server.tls.map(ServerTls::load).transpose()?.map(Arc::new);
    let address = server.listen;
    let listen_error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    let port = bound.port();
    let mut public_url = server.public;
    public_url.set_bound_port(port);
    let (home, home_origin) = (public_url.home_url(), public_url.home_origin());
    let hosts = Arc::new(Hosts::new(&public_url.base_domain, server.api_hosts));

    // The node and its backends.
    let state_error = |source| StartError::State { folder: state_dir.clone(), source };
    let node = NodeDir::lock_any(&state_dir).map_err(state_error)?;
    let forbidden = ForbiddenHosts::new(store_settings.clone());
    let runtime =
        start_runtime(&node, &runtime_settings, &own_program, open_files.original, forbidden.subscribe())
            .await?;
    let clock = Clock::System;
    let is_clustered = store_settings.is_some();
    let api_key = api_key_or_own(api_key, &state_dir, bound).map_err(state_error)?;
    // In a cluster all nodes share one secret, since any of them may show the texts of an instance.
    let secret =
        if is_clustered { None } else { Some(NodeSecret::random(node.secret().map_err(state_error)?)) };
    let shared_secret = match node_settings.secret.filter(|_| is_clustered) {
        Some(text) => Some(stretch(text).await),
        None => None,
    };
    let store =
        open_store(store_settings, node_settings.timeout, &node, &*runtime, &clock).map_err(state_error)?;

    // The pool.
    let instances = templates.iter().map(|template| template.pool.max).fold(0, usize::saturating_add);
    let routes = Arc::new(RouteTable::default());
    let metrics = Arc::new(Metrics::new());
    metrics.set_criu_available(runtime.may_restore());
    let pool = Pool::new(pool::PoolParts {
        store: store.clone(),
        runtime,
        routes: routes.clone(),
        metrics: metrics.clone(),
        clock,
        node: node.id().clone(),
        secret,
        public_url,
        templates,
        acquire_timeout,
    });

    // The API and the proxy, and the choice between their engines.
    let (stop_requests, is_stopping) = watch::channel(false);
    let tunnels = CancellationToken::new();
    let stop = StopSignal::new(is_stopping, tunnels.clone());
    let directory = Arc::new(Directory::alone(node.id().clone()));
    let peer_tls = tls.as_ref().filter(|_| is_clustered).map(|tls| PeerTls::new(tls.own_certificate()));
    let peer_tls = peer_tls.transpose().map_err(TlsError::from)?;
    let peers = PeerClient { directory: directory.clone(), tls: peer_tls.clone() };
    let trusted_origins = TrustedOrigins { home: home_origin, button_origins: server.button_origins };
    let trusted_proxies = server.trusted_proxies.clone();
    let api = Api::new(
        pool.clone(),
        metrics.clone(),
        api_key,
        trusted_proxies.clone(),
        trusted_origins,
        tunnels.clone(),
    );
    let clients = ClientPermits::new(server.max_requests_per_client, trusted_proxies.clone());
    let api = api.with_proof_of_work(server.proof_of_work_above).with_client_permits(clients.clone());
    let api = Arc::new(if is_clustered { api.with_peer_client(peers) } else { api });
    let in_flight = InFlightRequests::default();
    let max_connections = fitting_connections(open_files, server.max_connections, instances);
    let proxy = Proxy::new(proxy::ProxyParts {
        hosts,
        api: api.clone(),
        routes: routes.clone(),
        pool: pool.clone(),
        directory: directory.clone(),
        peer_tls,
        metrics: metrics.clone(),
        trusted_proxies: server.trusted_proxies,
        read_timeout: server.read_timeout,
        write_timeout: server.write_timeout,
        // Each client's connection may have one upstream connection: the maximum is such that both fit.
        limits: RequestLimits::new(
            clients,
            RequestMaxima {
                per_instance: server.max_requests_per_instance,
                total: max_connections,
                buffered_bytes: server.max_buffered_bytes,
                idle_upstreams: descriptors::idle_upstreams(open_files.raised),
            },
        ),
        in_flight: in_flight.clone(),
    });
    let timeouts = ClientTimeouts { write: server.write_timeout, ..ClientTimeouts::default() };
    let dispatcher = Dispatcher::new(api, proxy, timeouts, server.read_timeout, stop.clone());

    // The tasks in the background. The first heartbeat is sent before the pool records any instance: if this node died
    // before its first heartbeat, no other node would evict it, and its instances would stay on record.
    let heartbeat = Heartbeat {
        membership: pool.membership().clone(),
        local: pool.clone(),
        directory: directory.clone(),
        address: node_settings.address.unwrap_or_else(|| cluster::own_address(bound).to_string()),
        secret: shared_secret,
        timeout: node_settings.timeout,
    };
    task::spawn("forbidden hosts", forbidden.follow(pool.membership().node_hosts()));
    heartbeat.run().await;
    task::spawn("routes follow", follow_routes(routes, store, metrics.clone(), pool.clone()));
    if let Some(tls) = &tls {
        task::spawn("tls reload", tls.clone().reload());
    }
    pool.run().await;

    // The listener.
    let connections = TaskTracker::new();
    let context = ListenerContext {
        dispatcher,
        tls,
        maxima: ConnectionMaxima { total: max_connections, per_client: server.max_connections_per_client },
        trusted_proxies: trusted_proxies.clone(),
        directory,
        metrics,
        connections: connections.clone(),
    };
    task::spawn("accept", listener::run(context, listener, stop));
    if runtime_settings.mode == RuntimeMode::Process && trusted_proxies.has_loopback() {
        tracing::info!(
            remedy = "set TRUSTED_PROXIES to the proxy's address, or to nothing if there is none; or \
                      CONTAINER_MODE=containerd",
            "apps of the process runtime may claim any client address: loopback is a trusted proxy"
        );
    }
    tracing::info!(address = %home, port, node = %node.id(), trusted_proxies = %trusted_proxies, "listening");

    // The shutdown.
    signals.wait(|| reload_templates(&pool, file.as_deref(), &own_program)).await;
    ShutdownSequence { stop_requests, tunnels, connections, in_flight, grace: server.shutdown_grace }
        .run(&pool)
        .await;
    Ok(())
}

/// Returns the most connections of clients at a time. If they are fewer than configured, a warning is logged.
fn fitting_connections(open_files: OpenFileLimits, wanted: usize, instances: usize) -> usize {
    let fitting = descriptors::connections_within(open_files.raised, wanted, instances);
    if fitting < wanted {
        tracing::warn!(
            configured = wanted,
            used = fitting,
            open_files = open_files.raised,
            needed = descriptors::limit_for(wanted, instances),
            remedy = "raise the hard limit of open files (`ulimit -Hn`, LimitNOFILE= of a systemd unit, `ulimits:` of \
                      a compose file), or lower MAX_CONNECTIONS",
            "MAX_CONNECTIONS does not fit into the limit of open files"
        );
    }
    fitting
}

/// Returns the configured API key, or else the key of this server, which is made at its first start.
fn api_key_or_own(configured: Option<Secret>, state_dir: &Path, bound: SocketAddr) -> io::Result<ApiKey> {
    if let Some(secret) = configured {
        return Ok(ApiKey { secret, is_required: true });
    }
    let (secret, file) = state_dir::own_api_key(state_dir)?;
    if bound.ip().is_loopback() {
        tracing::info!(key_file = %file.display(), "API_KEY is not set; operator's calls need this key or come from this host");
    } else {
        tracing::warn!(
            key_file = %file.display(),
            "API_KEY is not set, and other hosts reach this server: they may acquire instances without a key; \
             operator's calls need this key or come from this host"
        );
    }
    Ok(ApiKey { secret, is_required: false })
}

/// Stretches the secret of the configuration, if it may be guessed, on a thread that may take its time.
async fn stretch(text: Secret) -> NodeSecret {
    let begun = Instant::now();
    let secret = tokio::task::spawn_blocking(|| NodeSecret::chosen(text)).await;
    tracing::debug!(took_ms = begun.elapsed().as_millis() as u64, "secret of the cluster prepared");
    secret.expect("stretching does not panic")
}

/// Applies the store's route changes to the route table, and to the pool where another node made them.
async fn follow_routes(
    routes: Arc<RouteTable>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    pool: Arc<Pool>,
) {
    let on_event = |event: FollowEvent<'_>| match event {
        FollowEvent::Change(change) => pool.apply_route_change(change),
        FollowEvent::Resynced => pool.garbage_collect_soon(),
    };
    routes::follow(routes, store, metrics, on_event).await;
}

/// Reads the file of templates again. If the configuration is invalid, the errors are logged and the previous templates
/// stay in effect.
fn reload_templates(pool: &Arc<Pool>, file: Option<&Path>, own_program: &Path) {
    match config::read(file, own_program) {
        Ok(config) => {
            tracing::info!(templates = config.templates.iter().len(), "templates reloaded");
            task::spawn("templates reload", pool.reload(config.templates));
        }
        Err(errors) => {
            tracing::error!(%errors, "failed to reload templates; the previous ones stay in effect");
        }
    }
}
