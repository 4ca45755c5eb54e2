//! One attempt of an exchange on one socket to the app: request and answer at the same time, with the deadlines of both.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::download::Download;
use super::failure::Failure;
use super::upload::Upload;
use crate::api::ApiError;
use crate::proxy::LocalExchange;
use crate::server::http1_guard::GuardedConnection;
use crate::server::shutdown::StopSignal;

/// A timer that is moved seldom: a deadline that has moved to a later time is noticed when the timer ends.
#[derive(Default)]
pub(in crate::server) struct LazyTimer(Option<Pin<Box<Sleep>>>);

impl LazyTimer {
    /// Ready once `until` has come.
    fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        loop {
            if sleep.deadline() > until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
    }
}

/// What one attempt uses.
pub(super) struct Relay<'a> {
    pub(super) client: &'a mut GuardedConnection,
    pub(super) app: &'a mut TcpStream,
    pub(super) exchange: &'a mut LocalExchange,
    pub(super) upload: &'a mut Upload,
    pub(super) download: &'a mut Download,
    pub(super) timer: &'a mut LazyTimer,
    pub(super) stop: &'a StopSignal,
    /// How long the client may send no byte of its body.
    pub(super) read_timeout: Duration,
    /// How long the app may take no byte of the request.
    pub(super) write_timeout: Duration,
}

impl Relay<'_> {
    /// Ready once the client has the whole answer. The request may not be sent to its end then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let uploaded = self.upload.poll(cx, self.client, self.app);
        let is_uploaded = match uploaded {
            Poll::Ready(uploaded) => {
                uploaded?;
                self.upload.is_done()
            }
            Poll::Pending => false,
        };
        if self.upload.take_progress() {
            self.download.note_progress();
        }
        if *self.stop.receiver().borrow() {
            self.download.end_connection();
        }
        let answered = self.download.poll(cx, self.client, self.app, self.exchange, is_uploaded);
        if answered.is_ready() {
            return answered;
        }
        if self.download.begun_status().is_some() {
            self.upload.forget();
        }
        if is_uploaded {
            // The guard delivers no byte more; it reports a client that has left.
            let mut byte = [0; 1];
            if Pin::new(&mut *self.client).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready() {
                return Poll::Ready(Err(Failure::ClientGone));
            }
        }
        let Some((deadline, error)) = self.next_deadline() else { return Poll::Pending };
        ready!(self.timer.poll_until(cx, deadline));
        Poll::Ready(Err(Failure::Error(error)))
    }

    /// Returns the first deadline of what is awaited, and the error once it has passed.
    fn next_deadline(&self) -> Option<(Instant, ApiError)> {
        let waiting = self.upload.waiting_since.map(|since| (since + self.read_timeout, ApiError::Timeout));
        let stalled =
            self.upload.stalled_since.map(|since| (since + self.write_timeout, ApiError::AppTimeout));
        let silent = self.download.silent_at().map(|at| (at, ApiError::AppTimeout));
        [waiting, stalled, silent].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
