//! Requests that this node makes to a peer on behalf of an API client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::time::timeout;

use super::{Directory, HOP_HEADER, PeerTls, connect};
use crate::clock::Millis;
use crate::instance::{InstanceId, NodeId};
use crate::request::one_shot::exchange;

/// Longest time from the request to the end of the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes requests to peers.
pub struct PeerClient {
    /// Where the peers are.
    pub directory: Arc<Directory>,
    /// TLS to the peers; `None` where the nodes use none on their port.
    pub tls: Option<PeerTls>,
}

/// A request to a peer that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot query node {node}: {why}")]
pub struct PeerError {
    node: NodeId,
    why: String,
}

impl PeerClient {
    /// Returns the last output of an instance that `node` runs; `None` when that node has none. `host` is the
    /// instance's host name, for which the node's certificate must be valid.
    ///
    /// # Errors
    /// The node cannot be reached, or its response is not the expected one.
    pub async fn logs(
        &self,
        node: &NodeId,
        id: &InstanceId,
        host: &str,
        now: Millis,
    ) -> Result<Option<Bytes>, PeerError> {
        let failed = |why: String| PeerError { node: node.clone(), why };
        // The empty label: the request is for the node's API, not for an instance.
        let (address, hop) =
            self.directory.hop_to(node, "", now).await.map_err(|error| failed(error.to_string()))?;
        let request = Request::get(format!("/api/v1/demo/{id}/logs"))
            // Each node's API answers to this name, whatever else it is configured for.
            .header("host", "localhost")
            // The proof that this node has checked its caller.
            .header(HOP_HEADER, hop)
            .body(Full::default())
            .map_err(|error| failed(error.to_string()))?;
        let exchanging = async {
            let stream = connect(address).await?;
            match &self.tls {
                None => exchange(stream, request).await,
                Some(tls) => exchange(tls.handshake(stream, host).await?, request).await,
            }
        };
        match timeout(RESPONSE_TIMEOUT, exchanging).await {
            Err(_) => Err(failed(format!("no answer within {RESPONSE_TIMEOUT:?}"))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(response)) => match response.status() {
                StatusCode::OK => Ok(Some(response.into_body())),
                StatusCode::NOT_FOUND => Ok(None),
                status => Err(failed(format!("its status was {status}"))),
            },
        }
    }
}
