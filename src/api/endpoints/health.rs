//! `GET /health`.

use http::{Response, StatusCode};
use serde_json::json;

use crate::api::{Api, ApiError, Body, response};

impl Api {
    pub(crate) async fn health(&self) -> Result<Response<Body>, ApiError> {
        Ok(match self.pool.ping().await {
            Ok(()) => response::json(StatusCode::OK, &json!({"status": "ok", "mode": self.pool.mode()})),
            Err(_) => response::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"status": "unhealthy", "error": "store unavailable"}),
            ),
        })
    }
}
