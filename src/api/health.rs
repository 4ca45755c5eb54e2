//! `GET /health`.

use http::{Response, StatusCode};
use serde_json::json;

use super::{Api, ApiError, Body, answer};

impl Api {
    pub(super) async fn health(&self) -> Result<Response<Body>, ApiError> {
        Ok(match self.pool.ping().await {
            Ok(()) => answer::json(StatusCode::OK, &json!({"status": "ok", "mode": self.pool.mode()})),
            Err(_) => answer::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"status": "unhealthy", "error": "store unavailable"}),
            ),
        })
    }
}
