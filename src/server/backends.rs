//! Creates the configured store, queue and runtime: the only file that names concrete backends.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::state_dir::NodeDir;
use crate::clock::Clock;
pub use crate::cluster::queue::jetstream::ServerReport;
use crate::cluster::queue::jetstream::{self, JetStreamQueue};
use crate::cluster::queue::memory::MemoryQueue;
use crate::cluster::queue::{QueueAccess, QueueError};
use crate::config::{self, Config};
use crate::instance::NodeId;
pub use crate::runtime::containerd::Cleaned;
use crate::runtime::containerd::{self, ContainerdRuntime};
use crate::runtime::engine::{self, EngineKind, EngineRuntime, EngineSettings};
use crate::runtime::mariadb::{self, MariaDb};
pub use crate::runtime::mariadb::{MAX_IDLE_CONNECTIONS, RemainingDatabases, Survey as DatabaseSurvey};
use crate::runtime::process::{self, ProcessRuntime};
use crate::runtime::{Checkpoint, CleanScope, DatabaseError, Databases, NoDatabases, Runtime, RuntimeError};
use crate::store::memory::MemoryStore;
pub use crate::store::valkey::EvictionRisk;
use crate::store::valkey::{self, ValkeyStore};
use crate::store::{DeadlineStore, Store};

/// The ports of a runtime that starts no instance.
const UNUSED_PORTS: RangeInclusive<u16> = 1..=1;

/// Starts the configured runtime for a node, which ends or adopts the instances that a crashed server left. `open_files` is the
/// soft limit of open files of apps that are processes; `None` leaves this process's. No container reaches `forbidden_hosts`.
///
/// # Errors
/// The runtime cannot remove what a crashed server left, or the runtime's service does not answer.
pub async fn start_runtime(
    node: &NodeDir,
    config: &config::RuntimeSettings,
    own_program: &Path,
    open_files: Option<u64>,
    forbidden_hosts: watch::Receiver<BTreeSet<String>>,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    Ok(match config.mode {
        config::RuntimeMode::Process => {
            let settings = process_settings(node, own_program, config.ports.clone());
            Arc::new(ProcessRuntime::open(process::ProcessSettings { open_files, ..settings }).await?)
        }
        config::RuntimeMode::Containerd => Arc::new(
            ContainerdRuntime::open(containerd::ContainerdSettings {
                program: Some(own_program.to_owned()),
                logins: config.registry_logins.clone(),
                may_restore: config.criu_enabled,
                shared_memory_limit: config
                    .shared_memory_max
                    .unwrap_or_else(containerd::default_shared_memory_limit),
                node_limits: node_limits(config),
                fast_cgroup_changes: config.fast_cgroup_changes,
                user_namespaces: config.user_namespaces,
                egress: config.egress.clone(),
                forbidden_hosts,
                database_server: config.database_server.clone(),
                ..containerd::ContainerdSettings::new(
                    config.containerd_address.clone(),
                    node.containers_dir(),
                    node.id().clone(),
                )
            })
            .await?,
        ),
        config::RuntimeMode::Docker => Arc::new(open_engine(EngineKind::Docker, node, config).await?),
        config::RuntimeMode::Podman => Arc::new(open_engine(EngineKind::Podman, node, config).await?),
        #[cfg(feature = "runtime-none")]
        config::RuntimeMode::None => Arc::new(crate::runtime::null::NullRuntime::new(config.none_endpoint)),
    })
}

async fn open_engine(
    kind: EngineKind,
    node: &NodeDir,
    config: &config::RuntimeSettings,
) -> Result<EngineRuntime, RuntimeError> {
    let (sockets, id) = (engine_sockets(kind, &config.engine_sockets).to_vec(), node.id().clone());
    let (logins, files_dir) = (config.registry_logins.clone(), node.engine_files_dir());
    EngineRuntime::open(EngineSettings { kind, sockets, node: id, logins, files_dir, reach: None }).await
}

/// What the engine of the configured mode is, for the doctor.
#[derive(Debug)]
pub struct EngineSummary {
    /// Its name, version, storage and socket.
    pub title: String,
    /// Whether it publishes a port for each instance.
    pub is_published: bool,
    /// Whether it is Docker with the image store of containerd.
    pub has_containerd_images: bool,
}

/// Asks the engine of the configured mode what it is, and changes nothing; `None` in other modes.
pub async fn survey_engine(config: &config::RuntimeSettings) -> Option<Result<EngineSummary, RuntimeError>> {
    let kind = match config.mode {
        config::RuntimeMode::Docker => EngineKind::Docker,
        config::RuntimeMode::Podman => EngineKind::Podman,
        _ => return None,
    };
    let survey = engine::survey(kind, engine_sockets(kind, &config.engine_sockets)).await;
    Some(survey.map(|found| EngineSummary {
        title: format!(
            "{} {}{}, API {}, {}, at {}",
            kind.title(),
            found.version,
            if found.is_rootless { " without root" } else { "" },
            found.api,
            found.storage,
            found.socket.display()
        ),
        is_published: found.reach == engine::Reach::Published,
        has_containerd_images: found.has_containerd_images,
    }))
}

fn engine_sockets(kind: EngineKind, sockets: &config::EngineSockets) -> &[PathBuf] {
    match kind {
        EngineKind::Docker => &sockets.docker,
        EngineKind::Podman => &sockets.podman,
    }
}

fn node_limits(config: &config::RuntimeSettings) -> containerd::NodeLimitSettings {
    containerd::NodeLimitSettings { memory: config.instances_memory, pids: config.instances_pids }
}

/// Returns the limits of all container instances of a node together, as long as no memory is shared: bytes of memory,
/// and processes.
pub fn instance_limits(config: &config::RuntimeSettings) -> (u64, u64) {
    node_limits(config).on_this_host()
}

/// What this host has for instances with user namespaces.
#[derive(Debug)]
pub struct UserNamespaceHost {
    /// Why it cannot have them, if that is known.
    pub refusal: Option<String>,
    /// The settings with the totals of inotify, how much they are, and how much of each one instance may use.
    pub inotify: Vec<(&'static str, Option<u64>, u32)>,
    /// Whether message queues and pending signals of all instances together are unlimited.
    pub are_accounts_unlimited: bool,
}

/// Reads what this host has for instances with user namespaces, where this process runs containerd.
pub fn user_namespace_host(containerd: Option<i32>) -> UserNamespaceHost {
    let inotify = containerd::INOTIFY_TOTALS;
    UserNamespaceHost {
        refusal: containerd::user_namespaces_refusal(),
        inotify: inotify.map(|(file, one)| (file, containerd::inotify_total(file), one)).to_vec(),
        are_accounts_unlimited: containerd::AccountLimits::below(containerd).is_unlimited,
    }
}

/// The oldest kernel on which the server makes changes of cgroups fast.
pub const CGROUP_CHANGES_KERNEL: (u32, u32) = containerd::CGROUP_CHANGES_KERNEL;

/// Returns how long this process waits to change its cgroup while nothing else changes.
///
/// # Errors
/// This process may not change groups.
pub async fn first_cgroup_change() -> io::Result<Duration> {
    tokio::task::spawn_blocking(containerd::first_cgroup_change).await?
}

/// Hides this server's environment and memory from its apps if they are processes of its user. Apps in containers do not
/// see the server.
///
/// # Errors
/// The kernel refuses.
pub fn hide_from_apps(mode: config::RuntimeMode) -> io::Result<()> {
    if mode == config::RuntimeMode::Process { process::hide_server() } else { Ok(()) }
}

/// Opens the embedded store. If the instances of `runtime` outlive the server, the store records assigned instances in
/// the node's journal; else it keeps all records in memory only.
///
/// # Errors
/// The journal cannot be read or written.
pub fn open_memory_store(node: &NodeDir, runtime: &dyn Runtime, clock: Clock) -> io::Result<MemoryStore> {
    if runtime.outlives_server() {
        MemoryStore::open(clock, node.journal_file())
    } else {
        Ok(MemoryStore::new(clock))
    }
}

/// Opens the Valkey that the configuration names, or else the embedded store.
///
/// # Errors
/// The node's file for the store cannot be read or written. An unreachable Valkey is no error.
pub fn open_store(
    config: Option<config::ValkeySettings>,
    node_timeout: Duration,
    node: &NodeDir,
    runtime: &dyn Runtime,
    clock: &Clock,
) -> io::Result<Arc<dyn Store>> {
    Ok(match config {
        Some(config) => {
            let settings = valkey::Settings {
                node: node.id().clone(),
                recovery_timeout: node_timeout,
                clock: Some(clock.clone()),
                ..valkey_settings(config)
            };
            DeadlineStore::new(Arc::new(ValkeyStore::open(settings, &node.grant_log_file())?))
        }
        None => Arc::new(open_memory_store(node, runtime, clock.clone())?),
    })
}

/// Returns where instances of a node have their databases. Nothing is asked of MariaDB yet.
pub fn open_databases(config: Option<config::DatabaseSettings>, node: &NodeId) -> Arc<dyn Databases> {
    match config {
        Some(config) => Arc::new(MariaDb::new(mariadb_settings(config, node))),
        None => Arc::new(NoDatabases),
    }
}

/// Asks the configured MariaDB what it offers, and changes nothing; `None` if none is configured.
pub async fn survey_databases(
    config: Option<config::DatabaseSettings>,
) -> Option<Result<DatabaseSurvey, DatabaseError>> {
    Some(mariadb::survey(&mariadb_settings(config?, &NodeId::random())).await)
}

fn mariadb_settings(config: config::DatabaseSettings, node: &NodeId) -> mariadb::Settings {
    let config::DatabaseSettings { host, port, user, password, tls, prefix } = config;
    let tls = match tls {
        config::DatabaseTls::Prefer => mariadb::Tls::Prefer,
        config::DatabaseTls::Verify => mariadb::Tls::Verify,
        config::DatabaseTls::Off => mariadb::Tls::Off,
    };
    let statement_deadline = mariadb::Settings::STATEMENT_DEADLINE;
    mariadb::Settings { host, port, user, password, tls, prefix, node: node.clone(), statement_deadline }
}

/// Time after which a job is delivered again whose worker reports nothing.
const ACK_WAIT: Duration = Duration::from_secs(3);

/// Opens the NATS that the configuration names, or else the embedded queue. Waits some seconds at most for NATS to answer;
/// one that does not is no error.
///
/// # Errors
/// The settings of NATS cannot be used.
pub async fn open_queue(config: config::QueueSettings) -> Result<QueueAccess, QueueError> {
    let Some(nats) = config.nats else { return Ok(embedded_queue(config.workers)) };
    let queue = JetStreamQueue::open(nats_settings(nats)).await?;
    Ok(QueueAccess { queue, workers: config.workers })
}

/// Returns an embedded queue, for a node that shares no work.
pub fn embedded_queue(workers: usize) -> QueueAccess {
    QueueAccess { queue: Arc::new(MemoryQueue::default()), workers }
}

/// Asks the configured NATS what it is, and changes nothing; `None` if the queue is embedded.
pub async fn survey_nats(config: &Config) -> Option<Result<ServerReport, QueueError>> {
    Some(jetstream::report(&nats_settings(config.queue.nats.clone()?)).await)
}

fn nats_settings(config: config::NatsSettings) -> jetstream::Settings {
    let credentials = config.credentials.map(|credentials| match credentials {
        config::NatsCredentials::User(name, password) => jetstream::Credentials::User(name, password),
        config::NatsCredentials::Token(token) => jetstream::Credentials::Token(token),
    });
    jetstream::Settings { servers: config.servers, credentials, stream: config.stream, ack_wait: ACK_WAIT }
}

/// Returns the hosts of the configured Valkey, as far as its settings name them.
pub fn store_hosts(config: Option<&config::ValkeySettings>) -> BTreeSet<String> {
    let addresses = config.into_iter().flat_map(|config| &config.addresses);
    let hosts = addresses.filter_map(|address| match address {
        config::ValkeyAddress::Tcp(host, _) => Some(host.clone()),
        config::ValkeyAddress::Unix(_) => None,
    });
    hosts.collect()
}

/// Returns the hosts of all servers of the configured Valkey: Sentinels and a cluster are asked. `None` if none answers.
pub async fn find_store_hosts(config: config::ValkeySettings) -> Option<BTreeSet<String>> {
    match valkey::server_hosts(&valkey_settings(config)).await {
        Ok(hosts) => Some(hosts),
        Err(error) => {
            tracing::warn!(%error, "failed to list the servers of Valkey");
            None
        }
    }
}

/// Returns whether the configured Valkey may evict keys; `None` if it does not answer.
pub async fn eviction_risk(config: config::ValkeySettings) -> Option<EvictionRisk> {
    valkey::eviction_risk(&valkey_settings(config)).await.ok()
}

/// Returns the store that nodes share, for the doctor to check; `None` if the store is embedded.
pub fn shared_store(config: &Config) -> Option<Arc<dyn Store>> {
    let store = ValkeyStore::new(valkey_settings(config.store.clone()?));
    Some(DeadlineStore::new(Arc::new(store)))
}

/// Returns the checkpoints of all nodes on this host, for the doctor to check.
pub fn baked_checkpoints(config: &Config) -> Vec<Checkpoint> {
    let folders = NodeDir::containers_dirs(&config.state_dir);
    folders.iter().filter_map(|folder| containerd::baked_checkpoints(folder).ok()).flatten().collect()
}

fn valkey_settings(config: config::ValkeySettings) -> valkey::Settings {
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

fn process_settings(
    node: &NodeDir,
    own_program: &Path,
    ports: RangeInclusive<u16>,
) -> process::ProcessSettings {
    process::ProcessSettings {
        program: own_program.to_owned(),
        instances_dir: node.instances_dir(),
        node: node.id().clone(),
        port_range: ports,
        open_files: None,
        log_limit: process::OUTPUT_LOG_BYTES,
    }
}

/// Removes what the nodes in `scope` have in the engines and the containerd of this host, as far as their sockets exist.
/// `known` are those that have a folder; where one had containers, containerd must answer. Returns what was removed, and
/// the number of links and firewall tables.
///
/// # Errors
/// An engine, containerd or the kernel refuses, or does not answer.
pub async fn clean_containers(
    host: &config::HostSettings,
    scope: &CleanScope,
    known: &[NodeDir],
) -> Result<(Cleaned, usize), RuntimeError> {
    let mut of_engines = 0;
    for kind in [EngineKind::Docker, EngineKind::Podman] {
        let sockets = engine_sockets(kind, &host.engine_sockets);
        let there: Vec<PathBuf> = sockets.iter().filter(|socket| socket.exists()).cloned().collect();
        if !there.is_empty() {
            of_engines += engine::clean(kind, &there, scope).await?;
        }
    }
    let folders: Vec<PathBuf> = known.iter().map(NodeDir::containers_dir).collect();
    let address = &host.containerd_address;
    let mut cleaned = match address.exists() || folders.iter().any(|folder| folder.exists()) {
        true => containerd::clean(address, scope, &folders).await?,
        false => Cleaned::default(),
    };
    cleaned.containers += of_engines;
    Ok((cleaned, containerd::clean_network(scope).await?))
}

/// Drops all databases and users of nodes, whose instances have ended. Returns how many names there were, and what remains.
pub async fn clean_databases(
    config: config::DatabaseSettings,
    nodes: &[NodeDir],
) -> (usize, Option<RemainingDatabases>) {
    let nodes: Vec<NodeId> = nodes.iter().map(|node| node.id().clone()).collect();
    mariadb::drop_all(&mariadb_settings(config, &NodeId::random()), &nodes).await
}

/// Ends the processes of the instances that a node left.
///
/// # Errors
/// A process does not end, or its folder cannot be removed.
pub async fn clean_processes(node: &NodeDir, own_program: &Path) -> Result<(), RuntimeError> {
    // To open a node's runtime ends the instances that a crash left.
    drop(ProcessRuntime::open(process_settings(node, own_program, UNUSED_PORTS)).await?);
    Ok(())
}
