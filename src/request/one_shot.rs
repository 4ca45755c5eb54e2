//! Sends one request over HTTP/1.1 on a connection of its own.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Most bytes of a response's body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Why there is no response.
pub(crate) type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// Sends one request and reads the whole response. The caller sets the deadline: if the future is dropped, the
/// connection ends, too.
///
/// # Errors
/// The connection failed, or the body of the response is larger than 1 MiB.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ExchangeError> {
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = send.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // Both futures run in this task, so that the connection ends if this future is dropped.
    tokio::pin!(connection, exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        // The connection may end first if the response says `close`. The exchange still gets what was received.
        _ = &mut connection => exchange.await,
    }
}
