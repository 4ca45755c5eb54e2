//! `GET /metrics`.

use http::{Response, StatusCode, header};

use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::telemetry::Format;

impl Api {
    pub(crate) async fn metrics(&self, asked: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        // Sets the pool gauges; without the store they keep their last values.
        if let Err(error) = self.pool.stats().await {
            tracing::warn!(%error, "the pool gauges are out of date");
        }
        let accept = asked.parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let (format, kind) = if accept.contains("application/openmetrics-text") {
            (Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        } else {
            (Format::Text, "text/plain; version=0.0.4; charset=utf-8")
        };
        Ok(response::with(StatusCode::OK, kind, self.metrics.page(format)))
    }
}
