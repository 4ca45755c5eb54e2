//! `GET /api/v1/queue`: whether the queue works, and the jobs that failed too often. `POST /api/v1/queue/{id}/retry`: puts
//! one of these back.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::api::{Api, ApiError, Body, response};
use crate::clock::Clock;
use crate::cluster::queue::{Job, ParkedJob, Queue};

#[derive(Serialize)]
struct QueueResponse {
    queue: &'static str,
    shared: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    parked: Vec<ParkedResponse>,
}

#[derive(Serialize)]
struct ParkedResponse {
    id: String,
    job: String,
    #[serde(flatten)]
    work: Job,
    error: String,
    deliveries: u32,
    parked_at: String,
}

#[derive(Serialize)]
struct RetryResponse<'a> {
    id: &'a str,
    status: &'static str,
}

/// Returns what the API says of the state of a queue.
pub(super) fn state(queue: &dyn Queue) -> &'static str {
    if queue.problem().is_none() { "ok" } else { "degraded" }
}

impl Api {
    pub(in crate::api) async fn queue(&self) -> Result<Response<Body>, ApiError> {
        let problem = self.queue.problem();
        // Without the queue, the list is not known.
        let parked = match problem {
            None => self.queue.parked().await.map_err(|_| ApiError::QueueUnavailable)?,
            Some(_) => Vec::new(),
        };
        let parked = parked.into_iter().map(|parked| ParkedResponse::of(parked, &self.clock)).collect();
        let body =
            QueueResponse { queue: state(&*self.queue), shared: self.queue.is_shared(), problem, parked };
        Ok(response::json(StatusCode::OK, &body))
    }

    pub(in crate::api) async fn retry_job(&self, id: &str) -> Result<Response<Body>, ApiError> {
        let is_number = id.bytes().all(|b| b.is_ascii_digit());
        let number = id.parse().ok().filter(|_| is_number).ok_or(ApiError::NotFound("job"))?;
        match self.queue.put_back(number).await {
            Ok(true) => Ok(response::json(StatusCode::OK, &RetryResponse { id, status: "queued" })),
            Ok(false) => Err(ApiError::NotFound("job")),
            Err(_) => Err(ApiError::QueueUnavailable),
        }
    }
}

impl ParkedResponse {
    fn of(parked: ParkedJob, clock: &Clock) -> Self {
        let ParkedJob { id, job, error, deliveries, parked_at } = parked;
        let parked_at = clock.shown(parked_at).rfc3339();
        Self { id: id.to_string(), job: job.id(), work: job, error, deliveries, parked_at }
    }
}
