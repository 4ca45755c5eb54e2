//! What an operator can see: log lines and metrics.

mod labels;
mod log;
mod memory;
mod metrics;
/// The one way to start a task.
pub mod task;
mod text_format;

pub use labels::{AcquireResult, HostKind, Outcome, ProvisionMethod, ReleaseReason, RouteOperation};
pub use log::init;
pub use memory::PoolMemory;
pub use metrics::{Format, Metrics, RequestLine};
