//! What an operator can see: log lines and metrics.

mod log;
mod metrics;
mod text_format;

pub use log::init;
pub use metrics::{
    AcquireResult, Format, HostKind, Metrics, Outcome, ProvisionMethod, ReleaseReason, RequestLine,
    RouteOperation,
};
