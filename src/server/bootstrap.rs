//! The composition root: assembles the parts of a server, runs it, and shuts it down.
//!
//! [`serve`] reads in order: the port, the node and its backends, the pool, API and proxy, tasks, listener, shutdown.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backends::{open_databases, open_queue, open_store, start_runtime};
use super::client_connections::ConnectionMaxima;
use super::descriptors::{self, OpenFileLimits};
use super::dispatch::Dispatcher;
use super::forbidden_hosts::ForbiddenHosts;
use super::handover::{self, PassedConnections, Predecessor, Successor, free_node};
use super::http1_guard::ClientTimeouts;
use super::listener::{self, ListenerContext};
use super::service_manager;
use super::shutdown::{ProcessSignals, RequestStop, ShutdownSequence, Wanted};
use super::start_error::StartError;
use super::state_dir::{self, NodeDir};
use super::tls::{ServerTls, TlsError};
use crate::api::{Api, ApiKey, TrustedOrigins};
use crate::clock::{Clock, continue_steady_time};
use crate::cluster::{self, Directory, Heartbeat, LocalNode, PeerClient, PeerTls};
use crate::config::{self, Config, Http1Engine, RuntimeMode};
use crate::pool::{self, Pool, Supply};
use crate::proxy::routes::{self, FollowEvent, RouteTable};
use crate::proxy::{self, Proxy, RequestLimits, RequestMaxima, Tunnels};
use crate::request::{ClientPermits, Hosts, InFlightRequests};
use crate::store::Store;
use crate::telemetry::{Metrics, task};
use crate::template::{NodeSecret, Secret};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// The URL of the front page.
    pub home_url: String,
    /// The address of the port.
    pub address: SocketAddr,
}

/// How a caller learns that its server listens, and ends it.
#[derive(Debug, Default)]
pub struct ServerHandle {
    /// Gets where the server listens as soon as it does.
    pub listening: Option<oneshot::Sender<Listening>>,
    /// Asks the server to shut down, as a signal does.
    pub stop: CancellationToken,
}

/// Runs the server until a signal asks it to shut down and it has done so. `file` is the file of templates, which is
/// read again on SIGHUP. `own_program` is the path of this program, which the runtimes start in other roles.
///
/// # Errors
/// The server cannot start; see [`StartError`].
pub async fn serve(config: Config, file: Option<PathBuf>, own_program: PathBuf) -> Result<(), StartError> {
    serve_with(config, file, own_program, ServerHandle::default()).await
}

/// Runs the server as [`serve`] does, until a signal or its caller asks it to shut down.
///
/// # Errors
/// The server cannot start; see [`StartError`].
pub async fn serve_with(
    config: Config,
    file: Option<PathBuf>,
    own_program: PathBuf,
    handle: ServerHandle,
) -> Result<(), StartError> {
    let mut signals = ProcessSignals::listen().map_err(StartError::Signals)?;
    let open_files = descriptors::raise();
    let Config {
        server,
        runtime: runtime_settings,
        templates,
        state_dir,
        api_key,
        acquire_timeout,
        store: store_settings,
        database,
        queue: queue_settings,
        node: node_settings,
        ..
    } = config;

    // The port. It is bound first: a second server on it ends here and touches nothing. A server that takes the place of
    // another gets it from that one.
    let tls = server.tls.map(ServerTls::load).transpose()?.map(Arc::new);
    let address = server.listen;
    let listen_error = |source| StartError::Listen { address, source };
    let (mut predecessor, listener) = match Predecessor::connect().map_err(StartError::Handover)? {
        Some((predecessor, listener)) => {
            (Some(predecessor), TcpListener::from_std(listener).map_err(listen_error)?)
        }
        None => (None, TcpListener::bind(address).await.map_err(listen_error)?),
    };
    let bound = listener.local_addr().map_err(listen_error)?;
    let port = bound.port();
    let mut public_url = server.public;
    public_url.set_bound_port(port);
    let (home, home_origin) = (public_url.home_url(), public_url.home_origin());
    let hosts = Arc::new(Hosts::new(&public_url.base_domain, server.api_hosts));

    // The node and its backends.
    let state_error = |source| StartError::State { folder: state_dir.clone(), source };
    let node = match &mut predecessor {
        Some(predecessor) => {
            if address.port() != 0 && address != bound {
                let source =
                    io::Error::other(format!("the old server listens on {bound}: restart it instead"));
                return Err(StartError::Listen { address, source });
            }
            tokio::task::block_in_place(|| predecessor.wait_until_free()).map_err(StartError::Handover)?;
            NodeDir::lock(&state_dir, predecessor.node().clone())
        }
        None => NodeDir::lock_any(&state_dir),
    };
    let node = node.map_err(state_error)?;
    let forbidden = ForbiddenHosts::new(store_settings.clone());
    let runtime =
        start_runtime(&node, &runtime_settings, &own_program, open_files.original, forbidden.subscribe())
            .await?;
    let is_clustered = store_settings.is_some();
    continue_steady_time(&node.clock_file()).map_err(state_error)?;
    let clock = if is_clustered { Clock::Shared(Arc::default()) } else { Clock::System };
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
    let (routes, metrics) = (Arc::new(RouteTable::default()), Arc::new(Metrics::new()));
    metrics.set_criu_available(runtime.may_restore());
    let pool = Pool::new(pool::PoolParts {
        store: store.clone(),
        runtime,
        databases: open_databases(database, node.id()),
        queue: open_queue(queue_settings).await?,
        routes: routes.clone(),
        metrics: metrics.clone(),
        clock,
        node: node.id().clone(),
        secret,
        public_url: Arc::new(public_url),
        templates,
        acquire_timeout,
    });

    // The API and the proxy, and the choice between their engines.
    let tunnels = Tunnels::default();
    let event_streams = tunnels.end.child_token();
    let (request_stop, stop) = RequestStop::new(tunnels.clone());
    let directory = Arc::new(Directory::alone(node.id().clone()));
    let peer_tls = tls.as_ref().filter(|_| is_clustered).map(|tls| PeerTls::new(tls.own_certificate()));
    let peer_tls = peer_tls.transpose().map_err(TlsError::from)?;
    let peers = PeerClient { directory: directory.clone(), tls: peer_tls.clone() };
    let trusted_origins = TrustedOrigins { home: home_origin, button_origins: server.button_origins };
    let trusted_proxies = server.trusted_proxies.clone();
    let api = Api::new(
        &pool,
        metrics.clone(),
        api_key,
        trusted_proxies.clone(),
        trusted_origins,
        event_streams.clone(),
    );
    let clients = ClientPermits::new(server.max_requests_per_client, trusted_proxies.clone());
    let api = api.with_proof_of_work(server.proof_of_work_above).with_client_permits(clients.clone());
    let api = Arc::new(if is_clustered { api.with_peer_client(peers) } else { api });
    let in_flight = InFlightRequests::default();
    let max_connections = fitting_connections(open_files, server.max_connections, instances);
    let idle_upstreams = descriptors::idle_upstreams(open_files.raised);
    let idle_app_sockets = match server.http1_engine {
        // Pingora then carries HTTP/2 and what goes to other nodes.
        Http1Engine::Forwarder => idle_upstreams / 4 * 3,
        Http1Engine::Pingora => 0,
    };
    let proxy = Proxy::new(proxy::ProxyParts {
        hosts,
        api: api.clone(),
        routes: routes.clone(),
        instances: pool.instances.clone(),
        clock: pool.clock().clone(),
        public_url: pool.public_url().clone(),
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
                idle_upstreams: idle_upstreams - idle_app_sockets,
                idle_app_sockets,
            },
        ),
        in_flight: in_flight.clone(),
    });
    let timeouts = ClientTimeouts { write: server.write_timeout, ..ClientTimeouts::default() };
    let passed = PassedConnections::new(tls.is_none());
    let ends = (stop.clone(), passed.passing());
    let dispatcher =
        Dispatcher::new(api.clone(), proxy, timeouts, server.read_timeout, ends, server.http1_engine);

    // The tasks in the background. The first heartbeat is sent before the pool records any instance: if this node died
    // before its first heartbeat, no other node would evict it, and its instances would stay on record.
    let heartbeat = Heartbeat {
        membership: pool.membership().clone(),
        local: pool.supply.clone(),
        directory: directory.clone(),
        address: node_settings.address.unwrap_or_else(|| cluster::own_address(bound).to_string()),
        secret: shared_secret,
        timeout: node_settings.timeout,
    };
    task::spawn("forbidden hosts", forbidden.follow(pool.membership().node_hosts()));
    heartbeat.run().await;
    task::spawn("routes follow", follow_routes(routes, store, metrics.clone(), pool.supply.clone()));
    if let Some(tls) = &tls {
        task::spawn("tls reload", tls.clone().reload());
    }
    pool.run().await;

    // The listener. A copy keeps it open until another process takes connections from it.
    let kept_listener = listener.as_fd().try_clone_to_owned().map_err(listen_error)?;
    let (connections, fresh) = (TaskTracker::new(), TaskTracker::new());
    let listener_closed = CancellationToken::new();
    let context = ListenerContext {
        dispatcher,
        tls,
        maxima: ConnectionMaxima { total: max_connections, per_client: server.max_connections_per_client },
        trusted_proxies: trusted_proxies.clone(),
        directory,
        metrics,
        connections: connections.clone(),
        fresh: fresh.clone(),
        closed: listener_closed.clone(),
    };
    let (taken_over, from_predecessor) = mpsc::unbounded_channel();
    task::spawn("accept", listener::run(context, listener, from_predecessor, stop));
    if runtime_settings.mode == RuntimeMode::Process && trusted_proxies.has_loopback() {
        tracing::info!(
            remedy = "set TRUSTED_PROXIES to the proxy's address, or to nothing if there is none; or \
                      CONTAINER_MODE=containerd",
            "apps of the process runtime may claim any client address: loopback is a trusted proxy"
        );
    }
    tracing::info!(address = %home, port, node = %node.id(), trusted_proxies = %trusted_proxies, "listening");
    if let Some(predecessor) = predecessor {
        predecessor.report_serving(taken_over);
    }
    service_manager::report_ready();
    let is_embedded = handle.listening.is_some();
    // A caller that waits no more needs no answer.
    let _ = handle.listening.map(|listening| listening.send(Listening { home_url: home, address: bound }));

    // The shutdown, or the handover to another process.
    let reload = || reload_templates(&pool, file.as_deref(), &own_program);
    let obstacle = pool.handover_obstacle().or(handover::obstacle());
    let obstacle = obstacle.or(is_embedded.then_some("it belongs to the command that started it"));
    let start_successor = || Successor::start(&own_program, &kept_listener, node.id());
    let successor = loop {
        let wanted = tokio::select! {
            wanted = signals.wait(|| service_manager::report_reload(reload)) => wanted,
            () = handle.stop.cancelled() => break None,
        };
        if wanted == Wanted::Stop {
            tracing::info!("shutdown started; a second signal ends the process at once");
            signals.end_at_next();
            break None;
        }
        match obstacle {
            Some(why) => tracing::error!(why, "this server cannot be replaced; it goes on"),
            None => match tokio::task::block_in_place(start_successor) {
                Ok(successor) => {
                    tracing::info!(pid = successor.pid(), "another server is prepared; freeing the node");
                    signals.end_at_next();
                    break Some(successor);
                }
                Err(error) => tracing::error!(%error, "failed to start another server; this one goes on"),
            },
        }
    };
    let sequence = ShutdownSequence {
        listener_closed,
        fresh,
        passed,
        request_stop,
        tunnels,
        event_streams,
        connections,
        in_flight,
        acquire_timeout,
        grace: server.shutdown_grace,
    };
    match successor {
        None => {
            // Else clients would connect, and wait for an answer in vain.
            drop(kept_listener);
            service_manager::report_stopping();
            sequence.run(&pool).await;
            Ok(())
        }
        Some(successor) => {
            let free_node = free_node(node, successor, &own_program, kept_listener);
            sequence.hand_over(&api, &pool, free_node).await.map_err(StartError::Handover)
        }
    }
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

/// Applies the store's route changes to the route table, and to the supply where another node made them.
async fn follow_routes(
    routes: Arc<RouteTable>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    supply: Arc<Supply>,
) {
    let on_event = |event: FollowEvent<'_>| match event {
        FollowEvent::Change(change) => supply.apply_route_change(change),
        FollowEvent::Resynced => supply.garbage_collect_soon(),
    };
    routes::follow(routes, store, metrics, on_event).await;
}

/// Reads the file of templates again. If the configuration is invalid, the errors are logged and the previous templates
/// stay in effect.
fn reload_templates(pool: &Pool, file: Option<&Path>, own_program: &Path) {
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
