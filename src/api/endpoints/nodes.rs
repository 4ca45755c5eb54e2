//! `GET /api/v1/nodes`: every node of the cluster, with its pools. `POST` and `DELETE /api/v1/nodes/{id}/drain`: starts
//! and stops draining a node.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::{Api, ApiError, Body, response};
use crate::cluster::{NodePool, NodeSummary};
use crate::instance::NodeId;
use crate::store::StoreError;

#[derive(Serialize)]
struct NodesResponse<'a> {
    nodes: Vec<NodeResponse<'a>>,
}

#[derive(Serialize)]
struct NodeResponse<'a> {
    id: &'a str,
    address: &'a str,
    mode: &'a str,
    alive: bool,
    draining: bool,
    #[serde(rename = "self")]
    is_self: bool,
    last_seen_ms: u64,
    pools: &'a [NodePool],
}

#[derive(Serialize)]
struct DrainResponse<'a> {
    id: &'a str,
    draining: bool,
}

impl Api {
    pub(in crate::api) async fn nodes(&self) -> Result<Response<Body>, ApiError> {
        let nodes = self.membership.nodes().await.map_err(|e| ApiError::from_store(e, "STATS_ERROR"))?;
        let nodes = nodes.iter().map(NodeResponse::of).collect();
        Ok(response::json(StatusCode::OK, &NodesResponse { nodes }))
    }

    pub(in crate::api) async fn drain(&self, id: &str, on: bool) -> Result<Response<Body>, ApiError> {
        let node = NodeId::parse(id).map_err(|_| ApiError::NotFound("node"))?;
        match self.membership.drain_node(&node, on, &*self.supply).await {
            Ok(()) => Ok(response::json(StatusCode::OK, &DrainResponse { id, draining: on })),
            Err(StoreError::Unknown) => Err(ApiError::NotFound("node")),
            Err(error) => Err(ApiError::from_store(error, "STATS_ERROR")),
        }
    }
}

impl<'a> NodeResponse<'a> {
    fn of(node: &'a NodeSummary) -> Self {
        let NodeSummary { status, is_alive, is_self, pools } = node;
        Self {
            id: status.info.id.as_str(),
            address: &status.info.address,
            mode: &status.info.mode,
            alive: *is_alive,
            draining: status.is_draining,
            is_self: *is_self,
            last_seen_ms: u64::try_from(status.silence.as_millis()).unwrap_or(u64::MAX),
            pools,
        }
    }
}
