//! HTTP/2 over anything.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw_connection::Io;
use super::{Answer, PATIENCE};

/// An HTTP/2 connection in the clear, with prior knowledge.
pub async fn h2c(port: u16) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    h2_over(stream).await
}

/// The same over something that is connected already.
pub async fn h2_over(stream: impl Io + 'static) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    try_it_now::telemetry::task::spawn("test", connection);
    send.ready().await.unwrap()
}

/// A request without a body, on a stream of its own.
pub async fn h2_ask(send: &SendRequest<Bytes>, request: Request<()>) -> Result<Answer, h2::Error> {
    let mut send = send.clone().ready().await?;
    let (answer, _) = send.send_request(request, true)?;
    timeout(PATIENCE, async { h2_whole(answer.await?).await }).await.expect("an answer")
}

/// `GET path` of `host`, on a stream of its own.
pub async fn h2_get(send: &SendRequest<Bytes>, host: &str, path: &str) -> Answer {
    let request = Request::get(format!("http://{host}{path}")).body(()).unwrap();
    h2_ask(send, request).await.unwrap()
}

/// An answer with all of its body.
pub async fn h2_whole(answer: Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.into() })
}
