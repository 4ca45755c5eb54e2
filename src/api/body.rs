//! The body of an API response: known at once, or a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};

use crate::pool::Delivery;

/// The body of an API response. Hyper sends it through its [`http_body::Body`], Pingora's side matches on the variants.
pub enum Body {
    /// The whole body; `None` after it was sent.
    Full(Option<Bytes>),
    /// The whole body of a response that assigns an instance. The engine that sends it takes the [`Delivery`] out,
    /// reports the first write before it attempts it, and reports how far the response got.
    WithDelivery(Option<Bytes>, Delivery),
    /// Chunks as they are produced, for server-sent events.
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// Creates a body from all of its bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(Some(bytes.into()))
    }

    /// Creates an empty body.
    pub fn empty() -> Self {
        Body::full(Bytes::new())
    }

    /// Adds the delivery of the instance that the response assigns.
    pub fn with_delivery(self, delivery: Delivery) -> Self {
        match self {
            Body::Full(bytes) | Body::WithDelivery(bytes, _) => Body::WithDelivery(bytes, delivery),
            // No streamed response assigns an instance. If one did, dropping the delivery here would undo the claim.
            Body::Stream(_) => self,
        }
    }

    /// Takes the delivery out; `None` when the response assigns no instance. A delivery that stays in the body is
    /// dropped with it, which undoes the claim: the instance is ready again.
    pub fn take_delivery(&mut self) -> Option<Delivery> {
        match std::mem::replace(self, Body::Full(None)) {
            Body::WithDelivery(bytes, delivery) => {
                *self = Body::Full(bytes);
                Some(delivery)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// Creates a body from a stream of chunks.
    pub fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Stream(Box::pin(chunks))
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
            Body::Full(bytes) | Body::WithDelivery(bytes, _) => {
                Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))))
            }
            Body::Stream(chunks) => chunks.as_mut().poll_next(cx).map(|c| c.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(
            self,
            Body::Full(bytes) | Body::WithDelivery(bytes, _) if bytes.as_ref().is_none_or(Bytes::is_empty)
        )
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) | Body::WithDelivery(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
