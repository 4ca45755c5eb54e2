//! The shared store on a real Valkey, with a clock that is moved by hand.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use async_trait::async_trait;
use parking_lot::Mutex;
use try_it_now::clock::{Clock, Millis};
use try_it_now::instance::NodeId;
use try_it_now::store::Store;
use try_it_now::store::valkey::{Address, Settings, ValkeyStore};

use super::Backend;
use crate::stack;

/// Longest time to start; met only by a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fewer than it keeps by itself: the sentence that overruns it makes one call for each.
const ROUTE_EVENTS: usize = 4_096;

/// A server of this test's own, which listens on a socket in a folder of its own, and forgets all when it ends.
struct Server {
    child: Child,
    folder: PathBuf,
}

/// The one of this process, shared by all its tests, and ended with the last that uses it.
static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Server {
    /// `None` where there is no Valkey.
    fn shared() -> Option<Arc<Self>> {
        let mut shared = SERVER.lock();
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    fn start() -> Option<Self> {
        let path = stack::programs("valkey-server")?;
        let folder = env::temp_dir().join(format!("try-it-now-valkey-{}", NodeId::random()));
        fs::create_dir_all(&folder).unwrap();
        let child = Command::new("valkey-server")
            .env("PATH", path)
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no", "--dir"])
            .arg(&folder)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, folder };
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(server.socket()).is_err() {
            assert!(begun.elapsed() < PATIENCE, "Valkey does not start");
            thread::sleep(Duration::from_millis(2));
        }
        Some(server)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Valkey {
    store: Arc<ValkeyStore>,
    clock: Clock,
    _server: Arc<Server>,
}

pub(crate) fn backend() -> Option<Arc<dyn Backend>> {
    let server = Server::shared()?;
    let clock = Clock::manual(Millis(1_700_000_000_000));
    let settings = Settings {
        // Others work on the same server.
        prefix: format!("{{{}}}", NodeId::random()),
        clock: Some(clock.clone()),
        route_events: ROUTE_EVENTS,
        addresses: vec![Address::Unix(server.socket())],
        ..Settings::default()
    };
    Some(Arc::new(Valkey { store: Arc::new(ValkeyStore::new(settings)), clock, _server: server }))
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
