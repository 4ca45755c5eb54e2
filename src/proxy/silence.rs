//! How long the upstream of one exchange may be silent.
//!
//! **Trap: Pingora fixes the read timeout of an upstream connection before the answer begins.** Whether silence means
//! anything is known only when the head of the answer is there: an event stream may be silent for as long as nothing
//! happens. So Pingora gets no read timeout. Each exchange runs inside [`watched`], whose [`SilenceWatch`] has the
//! deadline; if that passes, the upstream connection is shut down, and Pingora's read ends with an error.
//!
//! The exchange and its watch are one task. So while the watch acts, the exchange cannot close the connection, whose
//! descriptor could then belong to another one.

use std::future::{Future, poll_fn};
use std::os::fd::RawFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use parking_lot::Mutex;
use pingora_core::protocols::l4::ext::get_socket_cookie;
use tokio::time::Instant;

/// With the value `no`, an app asks proxies for the pieces of its answer as they come.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

tokio::task_local! {
    static CURRENT: Arc<SilenceWatch>;
}

/// Runs one exchange, during which `SilenceWatch::current` returns its watch.
pub async fn watched<F: Future>(exchange: F) -> F::Output {
    let watch = Arc::new(SilenceWatch::default());
    let mut exchange = pin!(CURRENT.scope(watch.clone(), exchange));
    let mut timer = pin!(tokio::time::sleep_until(Instant::now()));
    poll_fn(|cx: &mut Context<'_>| {
        loop {
            if let Poll::Ready(output) = exchange.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            // A deadline that has moved is noticed when the timer ends: that is cheaper than to move the timer often.
            loop {
                let Some(deadline) = watch.deadline() else { return Poll::Pending };
                if timer.is_elapsed() || timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if watch.deadline().is_some_and(|deadline| deadline <= Instant::now()) && watch.expire() {
                    break;
                }
            }
        }
    })
    .await
}

/// The deadline until which the upstream of one exchange must send something.
#[derive(Debug, Default)]
pub(super) struct SilenceWatch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    socket: Option<WatchedSocket>,
    /// Whether a read of a connection without a descriptor waits.
    is_read_pending: bool,
    silence: Option<Duration>,
    deadline: Option<Instant>,
    is_expired: bool,
}

/// An upstream connection of which Pingora has the only handle.
#[derive(Debug)]
struct WatchedSocket {
    descriptor: RawFd,
    /// Differs from that of a later connection with the same descriptor.
    cookie: u64,
}

impl WatchedSocket {
    fn is_same(&self) -> bool {
        get_socket_cookie(self.descriptor).is_ok_and(|cookie| cookie == self.cookie)
    }

    /// Whether neither bytes nor the end of the connection wait to be read. If they do, the client does not take its
    /// answer.
    fn has_nothing_to_read(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.descriptor, &mut [0; 1], flags) == Err(Errno::EAGAIN)
    }
}

impl SilenceWatch {
    /// Returns the watch of the exchange that this task runs; `None` outside of [`watched`].
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Starts the watch on a connection with this descriptor, which is negative for a connection without one. `silence`
    /// is how long the upstream may send nothing; `None` without a limit.
    pub(super) fn begin(&self, descriptor: RawFd, silence: Option<Duration>) {
        let socket = get_socket_cookie(descriptor).ok().map(|cookie| WatchedSocket { descriptor, cookie });
        let deadline = silence.map(|silence| Instant::now() + silence);
        *self.0.lock() = Watched { socket, silence, deadline, ..Watched::default() };
    }

    /// Records that the upstream or the client sent something.
    pub(super) fn restart(&self) {
        let mut watched = self.0.lock();
        if !watched.is_expired && watched.deadline.is_some() {
            watched.deadline = watched.silence.map(|silence| Instant::now() + silence);
        }
    }

    /// Ends the watch: the answer is complete, or may be silent for as long as it likes.
    pub(super) fn end(&self) {
        let mut watched = self.0.lock();
        (watched.socket, watched.silence, watched.deadline) = (None, None, None);
    }

    /// Returns whether the upstream was silent for too long.
    pub(super) fn is_expired(&self) -> bool {
        self.0.lock().is_expired
    }

    /// Records whether a read of a connection without a descriptor waits. If none does, the upstream is not silent:
    /// the client does not take its answer.
    pub(super) fn set_read_pending(&self, is_pending: bool) {
        self.0.lock().is_read_pending = is_pending;
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.lock().deadline
    }

    /// Handles a deadline that has passed. Returns whether the upstream was silent; then its connection is shut down.
    fn expire(&self) -> bool {
        let mut watched = self.0.lock();
        let is_silent = match &watched.socket {
            Some(socket) => socket.is_same() && socket.has_nothing_to_read(),
            None => watched.is_read_pending,
        };
        if !is_silent {
            watched.deadline = watched.silence.map(|silence| Instant::now() + silence);
            return false;
        }
        (watched.is_expired, watched.deadline) = (true, None);
        if let Some(socket) = &watched.socket {
            // It fails only if the upstream has ended the connection, which Pingora notices.
            let _ = shutdown(socket.descriptor, Shutdown::Both);
        }
        true
    }
}

/// Returns whether an answer with these headers may be silent between its pieces for as long as nothing happens.
pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    if text(ACCEL_BUFFERING).is_some_and(|value| value.trim().eq_ignore_ascii_case("no")) {
        return true;
    }
    let media_type = text(header::CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("").trim();
    let media_type = media_type.to_ascii_lowercase();
    matches!(
        media_type.as_str(),
        "text/event-stream"
            | "application/x-ndjson"
            | "application/ndjson"
            | "application/x-json-stream"
            | "application/stream+json"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-seq"
            | "multipart/x-mixed-replace"
            | "multipart/mixed"
    ) || ["application/grpc", "application/connect+"].iter().any(|prefix| media_type.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_type_of_an_answer_decides_whether_it_is_a_stream() {
        for (name, value, expected) in [
            ("content-type", "text/event-stream; charset=utf-8", true),
            ("content-type", "Application/X-NDJSON", true),
            ("content-type", "application/grpc-web+proto", true),
            ("content-type", "multipart/x-mixed-replace; boundary=frame", true),
            ("x-accel-buffering", "no", true),
            ("content-type", "text/html", false),
            ("content-type", "application/json", false),
            ("content-type", "text/plain; x=text/event-stream", false),
            ("x-accel-buffering", "yes", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert_eq!(is_stream(&headers), expected, "{name}: {value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_only_while_a_read_waits() {
        let silence = Duration::from_secs(10);
        let start = Instant::now();
        watched(async {
            let watch = SilenceWatch::current().unwrap();
            watch.begin(-1, Some(silence));
            tokio::time::sleep(silence * 3 - Duration::from_secs(1)).await;
            assert!(!watch.is_expired(), "the client does not take the answer");
            watch.set_read_pending(true);
            watch.restart();
            for _ in 0..10 {
                tokio::time::sleep(silence / 2).await;
                watch.restart();
            }
            assert!(!watch.is_expired(), "a piece comes now and then");
            poll_fn(|_| if watch.is_expired() { Poll::Ready(()) } else { Poll::Pending }).await;
        })
        .await;
        assert_eq!(start.elapsed(), silence * 9 - Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_has_ended_never_expires() {
        watched(async {
            let watch = SilenceWatch::current().unwrap();
            watch.begin(-1, Some(Duration::from_secs(1)));
            watch.set_read_pending(true);
            watch.end();
            tokio::time::sleep(Duration::from_secs(100)).await;
            watch.restart();
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert!(!watch.is_expired());
        })
        .await;
        assert!(SilenceWatch::current().is_none());
    }
}
