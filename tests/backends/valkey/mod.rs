//! The shared store on real Valkeys, with a clock that is moved by hand, and what only it promises.

mod crashes;
mod failover;
mod faults;
mod linearizability;
mod recovery;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use try_it_now::clock::{Clock, Millis};
use try_it_now::instance::NodeId;
use try_it_now::store::Store;
use try_it_now::store::valkey::{Address, Mode, Settings, ValkeyStore};

use crate::suites::store::Backend;
use crate::support::valkey_server::{Cluster, Keeps, PATIENCE, Server};

store_suite!(single, || async { crate::valkey::backend() }, 40);
store_suite!(in groups cluster, || async { crate::valkey::cluster_backend() }, 10);

/// Fewer than it keeps by itself: the sentence that overruns it makes one call for each.
const ROUTE_EVENTS: usize = 4_096;

/// Those of this process, shared by all its tests, and ended with the last that uses them.
static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static CLUSTER: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

fn shared<T>(all: &Mutex<Weak<T>>, start: impl FnOnce() -> Option<T>) -> Option<Arc<T>> {
    let mut shared = all.lock();
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Arc::new(start()?);
    *shared = Arc::downgrade(&started);
    Some(started)
}

/// A server that forgets all when it ends, shared by all tests of this process.
fn server() -> Option<Arc<Server>> {
    shared(&SERVER, || Server::start(Keeps::Nothing, &[]))
}

/// Keys that nobody else has: others work on the same server.
fn own_prefix() -> String {
    format!("{{{}}}", NodeId::random())
}

fn tcp((host, port): (String, u16)) -> Address {
    Address::Tcp(host, port)
}

struct Valkey {
    store: Arc<ValkeyStore>,
    clock: Clock,
    settings: Settings,
    _running: Arc<dyn Send + Sync>,
}

impl Valkey {
    fn new(running: Arc<dyn Send + Sync>, settings: Settings) -> Self {
        let clock = Clock::manual(Millis(1_700_000_000_000));
        let settings = Settings {
            prefix: own_prefix(),
            // Nothing here is about time, and a machine with other work may stand still for a second.
            deadline: PATIENCE,
            clock: Some(clock.clone()),
            route_events: ROUTE_EVENTS,
            ..settings
        };
        Self { store: Arc::new(ValkeyStore::new(settings.clone())), clock, settings, _running: running }
    }
}

pub(crate) fn backend() -> Option<Arc<dyn Backend>> {
    let server = server()?;
    let addresses = vec![Address::Unix(server.socket())];
    Some(Arc::new(Valkey::new(server, Settings { addresses, ..Settings::default() })))
}

pub(crate) fn cluster_backend() -> Option<Arc<dyn Backend>> {
    let cluster = shared(&CLUSTER, Cluster::start)?;
    let addresses = cluster.addresses().into_iter().map(tcp).collect();
    Some(Arc::new(Valkey::new(cluster, Settings { addresses, mode: Mode::Cluster, ..Settings::default() })))
}

#[async_trait]
impl Backend for Valkey {
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
