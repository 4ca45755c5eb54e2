//! One request over HTTP/1.1 on a connection of its own.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Most bytes of an answer's body.
const MAX_BODY: usize = 1 << 20;

/// Why there is no answer.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes one request and reads the whole answer. It has no deadline of its own; given up, the connection ends too.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Failure> {
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = send.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await?.to_bytes();
        Ok((status, body))
    };
    // Both halves in one task, so that dropping this future ends the connection too.
    tokio::pin!(connection, exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        // The connection may end first when the answer says `close`; what it brought is already on its way.
        _ = &mut connection => exchange.await,
    }
}
