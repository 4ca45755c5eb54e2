//! What an operator can see of the server: log lines and metrics. Also the named tasks, whose panics are logged.
//!
//! | file | what it holds |
//! |---|---|
//! | `log` | where log lines go, and which ones |
//! | `metrics` | [`Metrics`]: every metric, and the functions that record events |
//! | `memory_metrics` | the gauges of the memory that instances use |
//! | `labels`, `label_sets` | the values of labels, and which labels each metric has |
//! | `text_format` | the metrics page in the older format of Prometheus |
//! | `task` | the one function that spawns tasks |

mod label_sets;
mod labels;
mod log;
mod memory_metrics;
mod metrics;
pub mod task;
mod text_format;

pub use labels::{
    AcquireResult, ConnectionRefusal, HostKind, Outcome, ProvisionMethod, ReleaseReason, RouteOperation,
};
pub use log::{LogGuard, init};
pub use memory_metrics::PoolMemory;
pub use metrics::{Metrics, MetricsFormat, RequestRecord};
