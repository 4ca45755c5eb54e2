//! Sockets to an app that are kept while no request uses them, on a stack in the app's route: none can ever serve
//! another instance.
//!
//! They are bounded for all routes together, closed once they have been idle for [`IDLE_TIMEOUT`], and closed with their
//! route.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::route::Route;

/// How long an idle socket is kept. It must be shorter than the idle timeout of app servers (Node.js: 5 s), since a
/// request that is sent while the app closes the connection is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Time between two searches for sockets that have been idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The idle sockets of one route, the one that was used last on top.
#[derive(Debug, Default)]
pub(super) struct SocketStack(Mutex<Stack>);

#[derive(Debug, Default)]
struct Stack {
    sockets: Vec<IdleSocket>,
    /// Whether the route is among those that are swept.
    is_listed: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct IdleSocket {
    stream: TcpStream,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

impl SocketStack {
    /// Takes the socket that was used last. One on which something waits to be read is closed: the app has ended the
    /// connection, or sent an answer to no request.
    pub(super) fn take(&self) -> Option<TcpStream> {
        loop {
            let socket = self.0.lock().sockets.pop()?;
            let is_silent = matches!(
                socket.stream.try_read(&mut [0; 1]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock
            );
            if is_silent && socket.since.elapsed() < IDLE_TIMEOUT {
                return Some(socket.stream);
            }
        }
    }

    /// Closes all sockets, and each that is still to be kept.
    pub(super) fn close(&self) {
        let mut stack = self.0.lock();
        stack.is_closed = true;
        stack.sockets.clear();
    }

    /// Closes the sockets that have been idle for too long. Returns whether others remain.
    fn sweep(&self, now: Instant) -> bool {
        let mut stack = self.0.lock();
        stack.sockets.retain(|socket| now < socket.since + IDLE_TIMEOUT);
        stack.is_listed = !stack.sockets.is_empty();
        stack.is_listed
    }
}

/// The idle sockets of all routes.
#[derive(Debug)]
pub struct IdleSockets {
    places: Arc<Semaphore>,
    /// The routes that have idle sockets.
    routes: Mutex<Vec<Weak<Route>>>,
}

impl IdleSockets {
    /// Keeps `max` sockets at a time.
    pub fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))), routes: Mutex::default() }
    }

    /// Keeps a socket to the app of a route, or closes it if the route has ended or there are too many.
    pub fn keep(&self, route: &Arc<Route>, stream: TcpStream) {
        let Ok(permit) = self.places.clone().try_acquire_owned() else { return };
        let mut stack = route.idle_sockets().0.lock();
        if stack.is_closed {
            return;
        }
        stack.sockets.push(IdleSocket { stream, since: Instant::now(), _permit: permit });
        if !std::mem::replace(&mut stack.is_listed, true) {
            drop(stack);
            self.routes.lock().push(Arc::downgrade(route));
        }
    }

    /// Closes the sockets that have been idle for too long, again and again.
    pub async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.sweep_once();
        }
    }

    fn sweep_once(&self) {
        let now = Instant::now();
        let listed = std::mem::take(&mut *self.routes.lock());
        let has_sockets =
            |route: &Weak<Route>| route.upgrade().is_some_and(|route| route.idle_sockets().sweep(now));
        let remaining: Vec<_> = listed.into_iter().filter(has_sockets).collect();
        // Routes that were listed meanwhile are not among the remaining ones.
        self.routes.lock().extend(remaining);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::Millis;
    use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, Lease, NodeId, TemplateName};

    fn route() -> Arc<Route> {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let instance = Instance::warming(id, NodeId::random(), 0, Millis(1));
        let lease = Lease::new(ClaimToken::random(), Millis(1), Duration::from_secs(1));
        Arc::new(Route::new(&instance, &lease, Endpoint::from(([127, 0, 0, 1], 1)), 1))
    }

    /// Returns both ends of a connection: the one that is kept, and the app's.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kept = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (kept, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_kept_socket_is_used_again_by_its_own_route_only() {
        let (idle, one, other) = (IdleSockets::new(10), route(), route());
        let (kept, _app) = connection().await;
        let address = kept.local_addr().unwrap();
        idle.keep(&one, kept);
        assert!(other.take_idle_socket().is_none());
        assert_eq!(one.take_idle_socket().unwrap().local_addr().unwrap(), address);
        assert!(one.take_idle_socket().is_none());
    }

    #[tokio::test]
    async fn a_socket_that_the_app_closed_or_wrote_to_is_not_used_again() {
        let (idle, route) = (IdleSockets::new(10), route());
        for is_closed in [true, false] {
            let (kept, mut app) = connection().await;
            if is_closed {
                drop(app);
            } else {
                app.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            }
            kept.readable().await.unwrap();
            idle.keep(&route, kept);
            assert!(route.take_idle_socket().is_none(), "closed: {is_closed}");
        }
        assert_eq!(idle.places.available_permits(), 10);
    }

    #[tokio::test]
    async fn sockets_beyond_the_maximum_and_of_ended_routes_are_closed() {
        let (idle, one, other) = (IdleSockets::new(2), route(), route());
        let mut apps = Vec::new();
        for route in [&one, &other, &one] {
            let (kept, app) = connection().await;
            idle.keep(route, kept);
            apps.push(app);
        }
        assert_eq!(idle.places.available_permits(), 0);
        one.end();
        assert_eq!(idle.places.available_permits(), 1);
        let (kept, _app) = connection().await;
        idle.keep(&one, kept);
        assert_eq!(idle.places.available_permits(), 1, "the route has ended");
        assert!(one.take_idle_socket().is_none() && other.take_idle_socket().is_some());
    }

    #[tokio::test]
    async fn idle_sockets_are_swept_and_their_routes_forgotten() {
        let (idle, route) = (IdleSockets::new(2), route());
        let (first, _app) = connection().await;
        let (second, _other_app) = connection().await;
        tokio::time::pause();
        idle.keep(&route, first);
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        idle.keep(&route, second);
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        idle.sweep_once();
        assert_eq!((idle.places.available_permits(), idle.routes.lock().len()), (1, 1));
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        idle.sweep_once();
        assert_eq!((idle.places.available_permits(), idle.routes.lock().len()), (2, 0));
    }
}
