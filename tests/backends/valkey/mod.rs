//! The Valkey store under the suite, on real Valkey servers and with a clock that the tests advance, and what only this
//! store promises.

mod crashes;
mod failover;
mod faults;
mod linearizability;
mod recovery;
mod server_hosts;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use try_it_now::clock::{Clock, Millis};
use try_it_now::instance::NodeId;
use try_it_now::store::Store;
use try_it_now::store::valkey::{Address, Mode, Settings, ValkeyStore};

use crate::suites::store::Backend;
use crate::support::valkey_server::{MAX_WAIT, Persistence, ValkeyCluster, ValkeyServer};

store_suite!(single, || async { crate::valkey::backend() }, 40);
store_suite!(in groups cluster, || async { crate::valkey::cluster_backend() }, 10);

/// The number of route events that the store keeps here. It is smaller than the default, because the test that overruns
/// it makes one call for each event.
const ROUTE_EVENTS: usize = 4_096;

/// The servers of this process. All its tests share them, and they end with the last test that uses them.
static SERVER: Mutex<Weak<ValkeyServer>> = Mutex::new(Weak::new());
static CLUSTER: Mutex<Weak<ValkeyCluster>> = Mutex::new(Weak::new());

fn shared<T>(slot: &Mutex<Weak<T>>, start: impl FnOnce() -> Option<T>) -> Option<Arc<T>> {
    let mut shared = slot.lock();
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Arc::new(start()?);
    *shared = Arc::downgrade(&started);
    Some(started)
}

/// Returns a server without persistence that all tests of this process share.
fn server() -> Option<Arc<ValkeyServer>> {
    shared(&SERVER, || ValkeyServer::start(Persistence::None, &[]))
}

/// Returns a key prefix that no other test uses on the shared server.
fn own_prefix() -> String {
    format!("{{{}}}", NodeId::random())
}

fn tcp((host, port): (String, u16)) -> Address {
    Address::Tcp(host, port)
}

struct ValkeyBackend {
    store: Arc<ValkeyStore>,
    clock: Clock,
    settings: Settings,
    _running: Arc<dyn Send + Sync>,
}

impl ValkeyBackend {
    fn new(running: Arc<dyn Send + Sync>, settings: Settings) -> Self {
        let clock = Clock::manual(Millis(1_700_000_000_000));
        let settings = Settings {
            prefix: own_prefix(),
            // These tests do not measure time, and a busy machine may stall for a second.
            call_timeout: MAX_WAIT,
            clock: Some(clock.clone()),
            max_route_events: ROUTE_EVENTS,
            ..settings
        };
        Self { store: Arc::new(ValkeyStore::new(settings.clone())), clock, settings, _running: running }
    }
}

pub(crate) fn backend() -> Option<Arc<dyn Backend>> {
    let server = server()?;
    let addresses = vec![Address::Unix(server.socket())];
    Some(Arc::new(ValkeyBackend::new(server, Settings { addresses, ..Settings::default() })))
}

pub(crate) fn cluster_backend() -> Option<Arc<dyn Backend>> {
    let cluster = shared(&CLUSTER, ValkeyCluster::start)?;
    let addresses = cluster.addresses().into_iter().map(tcp).collect();
    Some(Arc::new(ValkeyBackend::new(
        cluster,
        Settings { addresses, mode: Mode::Cluster, ..Settings::default() },
    )))
}

#[async_trait]
impl Backend for ValkeyBackend {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn now(&self) -> Millis {
        self.clock.now()
    }
    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
    fn stream_capacity(&self) -> usize {
        ROUTE_EVENTS
    }
}
