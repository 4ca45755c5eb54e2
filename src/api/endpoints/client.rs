//! `GET /api/v1/client`: the caller's own address as the server sees it, by which an operator finds a proxy that
//! forwards a client's own `X-Forwarded-For` unchanged.

use http::{Response, StatusCode};
use serde_json::json;

use crate::api::request::ApiRequest;
use crate::api::{Api, ApiError, Body, response};

impl Api {
    pub(in crate::api) async fn client(&self, request: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        let client = request.context.client;
        let body = json!({"address": client.address.to_string(), "secure": client.is_secure});
        Ok(response::json(StatusCode::OK, &body))
    }
}
