//! The body of an answer: known at once, or a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};

use crate::pool::Delivery;

/// See the module. Both engines send it, each in its own way.
pub enum Body {
    /// All of it; `None` once it was taken.
    Full(Option<Bytes>),
    /// The same where it hands out an instance: whoever sends it takes the delivery, and says how far it got.
    Handing(Option<Bytes>, Delivery),
    /// Pieces as they come, for server-sent events.
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// A body that is known at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(Some(bytes.into()))
    }

    /// No body.
    pub fn empty() -> Self {
        Body::full(Bytes::new())
    }

    /// The same body, handing out an instance.
    pub fn handing(self, delivery: Delivery) -> Self {
        match self {
            Body::Full(bytes) | Body::Handing(bytes, _) => Body::Handing(bytes, delivery),
            // Nothing of ours hands out an instance bit by bit; unsent, it is taken back.
            Body::Stream(_) => self,
        }
    }

    /// Takes what has to be told how far the answer got, if it hands out an instance. Left in the body, it is dropped
    /// with that, and the instance is ready again.
    pub fn take_delivery(&mut self) -> Option<Delivery> {
        match std::mem::replace(self, Body::Full(None)) {
            Body::Handing(bytes, delivery) => {
                *self = Body::Full(bytes);
                Some(delivery)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// A body whose pieces come as they are made.
    pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Stream(Box::pin(pieces))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Full(bytes) | Body::Handing(bytes, _) => {
                Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))))
            }
            Body::Stream(pieces) => pieces.as_mut().poll_next(cx).map(|p| p.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(bytes) | Body::Handing(bytes, _) if bytes.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) | Body::Handing(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
