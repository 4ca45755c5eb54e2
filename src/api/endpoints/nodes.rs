//! `GET /api/v1/nodes`; `POST` and `DELETE /api/v1/nodes/{id}/drain`.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::{Api, ApiError, Body, response};
use crate::instance::NodeId;
use crate::pool::{NodePool, NodeSummary};
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
    pub(crate) async fn nodes(&self) -> Result<Response<Body>, ApiError> {
        let nodes = self.pool.nodes().await.map_err(|e| ApiError::from_store(e, "STATS_ERROR"))?;
        let nodes = nodes.iter().map(show).collect();
        Ok(response::json(StatusCode::OK, &NodesResponse { nodes }))
    }

    pub(crate) async fn drain(&self, id: &str, on: bool) -> Result<Response<Body>, ApiError> {
        let node = NodeId::parse(id).map_err(|_| ApiError::NotFound("node"))?;
        match self.pool.drain_node(&node, on).await {
            Ok(()) => Ok(response::json(StatusCode::OK, &DrainResponse { id, draining: on })),
            Err(StoreError::Unknown) => Err(ApiError::NotFound("node")),
            Err(error) => Err(ApiError::from_store(error, "STATS_ERROR")),
        }
    }
}

fn show(node: &NodeSummary) -> NodeResponse<'_> {
    let NodeSummary { member, alive, is_self, pools } = node;
    NodeResponse {
        id: member.card.id.as_str(),
        address: &member.card.address,
        mode: &member.card.mode,
        alive: *alive,
        draining: member.draining,
        is_self: *is_self,
        last_seen_ms: u64::try_from(member.silent.as_millis()).unwrap_or(u64::MAX),
        pools,
    }
}
