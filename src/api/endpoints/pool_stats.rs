//! `GET /api/v1/pool/stats`.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::api_key::query_value;
use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::TemplateName;
use crate::pool::{PoolStats, TemplateStats};

#[derive(Serialize)]
struct StatsResponse {
    #[serde(flatten)]
    sum: PoolStats,
    templates: Vec<TemplateStats>,
}

impl Api {
    pub(crate) async fn pool_stats(&self, asked: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        let wanted = match asked.parts.uri.query().and_then(|query| query_value(query, "template")) {
            Some(name) => {
                let name = String::from_utf8_lossy(&name);
                Some(TemplateName::new(&name).map_err(|error| ApiError::InvalidRequest(error.to_string()))?)
            }
            None => None,
        };
        let mut templates = self.pool.stats().await.map_err(|e| ApiError::from_store(e, "STATS_ERROR"))?;
        if let Some(name) = wanted {
            templates.retain(|stats| stats.template == name.as_str());
            if templates.is_empty() {
                return Err(ApiError::NotFound("template"));
            }
        }
        let sum = templates.iter().map(|template| template.stats).sum();
        Ok(response::json(StatusCode::OK, &StatsResponse { sum, templates }))
    }
}
