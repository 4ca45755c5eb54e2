//! The endpoints: one a file, each a method of [`Api`](super::Api) that `router.rs` calls.
//!
//! | file | endpoint |
//! |---|---|
//! | `acquire.rs` | `POST /api/v1/demo/acquire` |
//! | `get.rs` | `GET /api/v1/demo/{id}` |
//! | `extend.rs` | `POST /api/v1/demo/{id}/extend` |
//! | `release.rs` | `DELETE /api/v1/demo/{id}` |
//! | `status.rs` | `GET /api/v1/demo/{id}/status` |
//! | `logs.rs` | `GET /api/v1/demo/{id}/logs` |
//! | `pool_stats.rs` | `GET /api/v1/pool/stats` |
//! | `nodes.rs` | `GET /api/v1/nodes`, `POST` and `DELETE /api/v1/nodes/{id}/drain` |
//! | `queue.rs` | `GET /api/v1/queue`, `POST /api/v1/queue/{id}/retry` |
//! | `client.rs` | `GET /api/v1/client` |
//! | `health.rs`, `metrics.rs` | `GET /health`, `GET /metrics` |
//! | `front_page.rs`, `ready_feed.rs` | `GET /`, and `GET /ready`, by which that page updates its numbers |
//! | `page_actions.rs` | `POST /try/{template}` and `POST /end/{id}`: the buttons of the front page |
//! | `instance_cookie.rs` | the cookies by which the front page finds a visitor's instances |
//!
//! Every endpoint returns a response or the [`ApiError`](super::ApiError) that becomes one.

mod acquire;
mod client;
mod extend;
mod front_page;
mod get;
mod health;
mod instance_cookie;
mod logs;
mod metrics;
mod nodes;
mod page_actions;
mod pool_stats;
mod queue;
mod ready_feed;
mod release;
mod status;
