//! `GET /metrics`: all metrics of this node, for Prometheus.

use http::{Response, StatusCode, header};

use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::telemetry::MetricsFormat;

impl Api {
    pub(in crate::api) async fn metrics(&self, request: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        // Sets the pool gauges. Without the store they keep their last values.
        if let Err(error) = self.statistics.of_templates().await {
            tracing::warn!(%error, "failed to update pool gauges");
        }
        let accept = request.head.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let (format, media_type) = if accept.contains("application/openmetrics-text") {
            (MetricsFormat::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        } else {
            (MetricsFormat::Text, "text/plain; version=0.0.4; charset=utf-8")
        };
        Ok(response::with_body(StatusCode::OK, media_type, self.metrics.render(format)))
    }
}
