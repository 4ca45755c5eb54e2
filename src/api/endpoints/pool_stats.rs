//! `GET /api/v1/pool/stats`: how many instances are in which state, over all nodes.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::request::query_parameter;
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
    pub(in crate::api) async fn pool_stats(
        &self,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let query = request.head.uri.query();
        let only = match query.and_then(|query| query_parameter(query, "template")) {
            Some(name) => {
                let name = String::from_utf8_lossy(&name);
                Some(TemplateName::new(&name).map_err(|error| ApiError::InvalidRequest(error.to_string()))?)
            }
            None => None,
        };
        let mut templates =
            self.statistics.of_templates().await.map_err(|e| ApiError::from_store(e, "STATS_ERROR"))?;
        if let Some(name) = only {
            templates.retain(|stats| stats.template == name.as_str());
            if templates.is_empty() {
                return Err(ApiError::NotFound("template"));
            }
        }
        let sum = templates.iter().map(|template| template.stats).sum();
        Ok(response::json(StatusCode::OK, &StatsResponse { sum, templates }))
    }
}
