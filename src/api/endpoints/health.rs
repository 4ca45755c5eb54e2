//! `GET /health`: whether the store answers.

use http::{Response, StatusCode};
use serde_json::json;

use crate::api::{Api, ApiError, Body, response};

impl Api {
    pub(in crate::api) async fn health(&self) -> Result<Response<Body>, ApiError> {
        Ok(match self.statistics.ping().await {
            Ok(()) => {
                response::json(StatusCode::OK, &json!({"status": "ok", "mode": self.supply.runtime_name()}))
            }
            Err(_) => response::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"status": "unhealthy", "error": "store unavailable"}),
            ),
        })
    }
}
