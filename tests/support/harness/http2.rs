//! An HTTP/2 client over any transport.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw_connection::Transport;
use super::{Answer, MAX_WAIT};

/// Opens an HTTP/2 connection in the clear, with prior knowledge.
pub async fn h2c(port: u16) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    h2_over(stream).await
}

/// Opens an HTTP/2 connection over a transport that is connected already.
pub async fn h2_over(stream: impl Transport + 'static) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    try_it_now::telemetry::task::spawn("test", connection);
    send.ready().await.unwrap()
}

/// Sends a request without a body on a stream of its own and reads the whole answer.
pub async fn h2_request(send: &SendRequest<Bytes>, request: Request<()>) -> Result<Answer, h2::Error> {
    let mut send = send.clone().ready().await?;
    let (answer, _) = send.send_request(request, true)?;
    timeout(MAX_WAIT, async { h2_collect(answer.await?).await }).await.expect("an answer")
}

/// Sends `GET path` with this authority on a stream of its own and reads the whole answer.
pub async fn h2_get(send: &SendRequest<Bytes>, host: &str, path: &str) -> Answer {
    let request = Request::get(format!("http://{host}{path}")).body(()).unwrap();
    h2_request(send, request).await.unwrap()
}

/// Reads the whole body of an answer.
pub async fn h2_collect(answer: Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.into() })
}
