//! The API and the pages: everything on the one port that belongs to no instance.
//!
//! This folder knows no HTTP engine. The engine that parsed a request calls [`Api::handle`] with its head and its whole
//! body, and sends the response. Files in reading order:
//!
//! | file | content |
//! |---|---|
//! | `path.rs` | every path: how it is parsed, its pattern in logs and metrics, its methods, its protection |
//! | `router.rs` | [`Api`], and the flat match from method and path to an endpoint |
//! | `request.rs` | a request as an endpoint sees it: JSON body, query parameters, `Accept` |
//! | `access.rs` | who may do what: the API key, and the tokens of instances |
//! | `cross_site.rs` | the check that another website does not act in a visitor's name |
//! | `proof_of_work.rs` | what a client computes before it may acquire more than the lower quota |
//! | `endpoints/` | one endpoint a file |
//! | `error.rs` | [`ApiError`]: the only map from errors to status, code, text and headers |
//! | `response.rs`, `body.rs` | JSON and HTML responses, and their bodies |
//! | `event_stream.rs` | responses of server-sent events |
//! | `ready_counts.rs` | the numbers of ready instances, queried once for all clients that watch them |
//! | `pages/` | the HTML of the front page and of every error page |
//!
//! To add a header to all responses of the API, set it in [`Api::handle`]. To add an endpoint: a variant of `Path` with
//! its pattern and methods, a line in the match of `router.rs`, a file in `endpoints/`, a test in `tests/server/api/`.
//!
//! **Architecture invariant:** the response that assigns an instance carries a [`Delivery`](crate::pool::Delivery) in
//! its [`Body`]. The engine that sends the response takes it out, reports the first write before it attempts it, and
//! reports how far the response got. A delivery that is dropped in the body undoes the claim, so an engine that ignores
//! it never assigns an instance, and one that reports a write only afterwards assigns an instance twice.

mod access;
mod body;
mod cross_site;
mod endpoints;
mod error;
mod event_stream;
pub(crate) mod pages;
mod path;
mod proof_of_work;
mod ready_counts;
mod request;
mod response;
mod router;

pub use access::{ApiKey, INSTANCE_TOKEN_HEADER};
pub use body::Body;
pub use cross_site::TrustedOrigins;
pub use error::ApiError;
pub use request::MAX_BODY;
use request::{ApiRequest, read_json};
pub use router::Api;
