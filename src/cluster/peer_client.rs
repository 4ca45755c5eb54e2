//! What one server asks another for a caller of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::time::timeout;

use super::{Directory, HOP, PeerTls, connect};
use crate::clock::Millis;
use crate::instance::{InstanceId, NodeId};
use crate::request::one_shot::exchange;
use crate::template::Secret;

/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks other servers.
pub struct PeerClient {
    /// Where they are.
    pub directory: Arc<Directory>,
    /// With TLS on their port.
    pub secure: Option<PeerTls>,
    /// The key to their API, the same as to ours.
    pub key: Option<Secret>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{node} does not tell: {why}")]
pub struct PeerError {
    node: NodeId,
    why: String,
}

impl PeerClient {
    /// The last output of an instance that `node` runs; `None` when it knows none. `host` is the instance's own.
    ///
    /// # Errors
    /// The server cannot be reached, or does not answer as it should.
    pub async fn logs(
        &self,
        node: &NodeId,
        id: &InstanceId,
        host: &str,
        now: Millis,
    ) -> Result<Option<Bytes>, PeerError> {
        let untold = |why: String| PeerError { node: node.clone(), why };
        // To the API of that server: no instance's label.
        let way = self.directory.way_to(node, "", now).await.map_err(|error| untold(error.to_string()))?;
        let mut request = Request::get(format!("/api/v1/demo/{id}/logs"))
            // A name of every server's API, whatever else it answers to.
            .header("host", "localhost")
            .header(HOP, way.1);
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key.reveal());
        }
        let request = request.body(Full::default()).map_err(|error| untold(error.to_string()))?;
        let asking = async {
            let stream = connect(way.0).await?;
            match &self.secure {
                None => exchange(stream, request).await,
                Some(secure) => exchange(secure.handshake(stream, host).await?, request).await,
            }
        };
        match timeout(PATIENCE, asking).await {
            Err(_) => Err(untold(format!("no answer within {PATIENCE:?}"))),
            Ok(Err(error)) => Err(untold(error.to_string())),
            Ok(Ok((StatusCode::OK, body))) => Ok(Some(body)),
            Ok(Ok((StatusCode::NOT_FOUND, _))) => Ok(None),
            Ok(Ok((status, _))) => Err(untold(format!("it answered {status}"))),
        }
    }
}
