//! What an operator can see of the server: log lines and metrics. Also the named tasks, whose panics are logged.
//!
//! | file | what it holds |
//! |---|---|
//! | `log` | where log lines go, and which ones |
//! | `log_rate` | how often one kind of log line is written |
//! | `accept_errors` | the log lines of connections that the kernel does not let this program accept |
//! | `collected` | log lines of problems, for a command that shows them in its result |
//! | `metrics` | [`Metrics`]: every metric, and the functions that record events |
//! | `memory_metrics` | the gauges of the memory that instances use |
//! | `labels`, `label_sets` | the values of labels, and which labels each metric has |
//! | `text_format` | the metrics page in the older format of Prometheus |
//! | `version` | the version of the program, and its commit |
//! | `task` | the one function that spawns tasks |

pub(crate) mod accept_errors;
mod collected;
mod label_sets;
mod labels;
mod log;
pub(crate) mod log_rate;
mod memory_metrics;
mod metrics;
pub mod task;
mod text_format;
mod version;

pub use collected::{CollectedProblems, collect_problems};
pub use labels::{
    AcquireResult, ConnectionRefusal, HostKind, Outcome, ProvisionMethod, ReleaseReason, RouteOperation,
};
pub use log::{LogGuard, init};
pub use memory_metrics::PoolMemory;
pub use metrics::{Metrics, MetricsFormat, RequestRecord};
pub use version::{COMMIT, version_with_commit};
