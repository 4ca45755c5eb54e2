//! Creates the configured store and runtime: the only file that names concrete backends.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::state_dir::NodeDir;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::runtime::containerd::{self, ContainerdRuntime};
use crate::runtime::process::{self, ProcessRuntime};
use crate::runtime::{Checkpoint, Runtime, RuntimeError};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::valkey::{self, ValkeyStore};

/// For a runtime that starts nothing.
const CLEANING_PORTS: RangeInclusive<u16> = 1..=1;

/// Starts the configured runtime for a node. Instances that a crashed server left are ended, or adopted where the runtime
/// keeps them.
///
/// # Errors
/// What a crashed server left cannot be removed, or the runtime's service does not answer.
pub async fn start_runtime(
    node: &NodeDir,
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
        config::RuntimeMode::None => Arc::new(crate::runtime::null::NullRuntime::new(config.none_endpoint)),
    })
}

/// The embedded store. It keeps what visitors have where that outlives the server.
pub fn open_store(node: &NodeDir, runtime: &dyn Runtime, clock: Clock) -> io::Result<MemoryStore> {
    if runtime.outlives_the_server() {
        MemoryStore::open(clock, node.journal())
    } else {
        Ok(MemoryStore::new(clock))
    }
}

/// The Valkey that the configuration names, or the embedded store.
pub fn choose_store(
    config: Option<config::Valkey>,
    node_timeout: Duration,
    node: &NodeDir,
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

/// The store that servers share, as the doctor asks it whether it is there; `None` where it is embedded.
pub fn shared_store(config: &Config) -> Option<Arc<dyn Store>> {
    Some(Arc::new(ValkeyStore::new(valkey_settings(config.store.clone()?))))
}

/// What is baked on this host, as the doctor is told of it.
pub fn baked(config: &Config) -> Vec<Checkpoint> {
    let nodes = NodeDir::all_containers(&config.state_dir);
    nodes.iter().filter_map(|containers| containerd::baked(containers).ok()).flatten().collect()
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

fn processes(node: &NodeDir, own_program: &Path, ports: RangeInclusive<u16>) -> process::Settings {
    process::Settings {
        guardian: own_program.to_owned(),
        work: node.instances(),
        node: node.id().clone(),
        ports,
        log_limit: process::LOG_LIMIT,
    }
}

/// Removes every container, snapshot and checkpoint of this program from the containerd at `address`. Returns how many
/// containers and snapshots there were.
///
/// # Errors
/// containerd does not answer, or refuses.
pub async fn clean_containers(address: &Path) -> Result<(usize, usize), RuntimeError> {
    containerd::clean(address).await
}

/// Removes every link and firewall table of this program. Returns how many there were.
///
/// # Errors
/// The kernel refuses.
pub async fn clean_network() -> Result<usize, RuntimeError> {
    containerd::clean_network().await
}

/// Ends the processes of instances that a node left behind.
///
/// # Errors
/// A process does not end, or its folder cannot be removed.
pub async fn clean_processes(node: &NodeDir, own_program: &Path) -> Result<(), RuntimeError> {
    // Opening the runtime of a node ends the instances that a crash left.
    drop(ProcessRuntime::open(processes(node, own_program, CLEANING_PORTS)).await?);
    Ok(())
}
