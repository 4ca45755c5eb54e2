//! `GET /health`: whether the store answers, and whether the queue works that nodes share.

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::queue::state;
use crate::api::{Api, ApiError, Body, response};
use crate::cluster::LocalNode;

#[derive(Serialize)]
struct HealthResponse {
    status: &'static str,
    mode: &'static str,
    /// Absent where no queue is shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'static str>,
}

impl Api {
    pub(in crate::api) async fn health(&self) -> Result<Response<Body>, ApiError> {
        Ok(match self.statistics.ping().await {
            // Visitors are served without the queue too.
            Ok(()) => {
                let queue = self.queue.is_shared().then(|| state(&*self.queue));
                let body = HealthResponse { status: "ok", mode: self.supply.runtime_name(), queue };
                response::json(StatusCode::OK, &body)
            }
            Err(_) => response::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"status": "unhealthy", "error": "store unavailable"}),
            ),
        })
    }
}
