//! Every metric of the contract, by name. Durations are in seconds.

use std::fmt::Write as _;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{AcquireResult, HostKind, Outcome, ProvisionMethod, ReleaseReason, RouteOperation};
use super::memory::{MemoryMetrics, PoolMemory};
use super::text_format::from_openmetrics;

/// Seconds; from 50 µs, since an acquire takes microseconds, to the minutes of a cold start.
const BUCKETS: [f64; 20] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 120.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TemplateLabel {
    pub(super) template: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcquireLabels {
    template: String,
    result: AcquireResult,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReleaseLabels {
    template: String,
    reason: ReleaseReason,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProvisionLabels {
    template: String,
    method: ProvisionMethod,
    result: Outcome,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BakeLabels {
    template: String,
    result: Outcome,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: ProvisionMethod,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    result: Outcome,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    operation: RouteOperation,
    result: Outcome,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    method: &'static str,
    path: &'static str,
    status: u16,
}
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The form of the metrics page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// One answered request, for its log line and its metric.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Whose host it named.
    pub host: HostKind,
    /// Its method, as the client wrote it.
    pub method: &'a http::Method,
    /// The pattern of its path, never the path.
    pub path: &'static str,
    /// The answer's status; 0 when the client left before it.
    pub status: u16,
    /// From its head until its answer was complete, or began when it streams.
    pub took: Duration,
}

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    criu_available: Gauge,
    ready: Family<TemplateLabel, Gauge>,
    assigned: Family<TemplateLabel, Gauge>,
    warming: Family<TemplateLabel, Gauge>,
    target: Family<TemplateLabel, Gauge>,
    capacity: Family<TemplateLabel, Gauge>,
    memory: MemoryMetrics,
    acquisitions: Family<AcquireLabels, Counter>,
    releases: Family<ReleaseLabels, Counter>,
    provisions: Family<ProvisionLabels, Counter>,
    bakes: Family<BakeLabels, Counter>,
    rate_limit_hits: Counter,
    passed_on: Counter,
    health_checks: Family<OutcomeLabel, Counter>,
    route_operations: Family<RouteLabels, Counter>,
    acquisition_duration: Histogram,
    provision_duration: Durations<MethodLabel>,
    restore_duration: Histogram,
    bake_duration: Histogram,
    health_check_duration: Histogram,
    wait_for_ready_duration: Histogram,
    route_add_duration: Histogram,
    route_remove_duration: Histogram,
    http_request_duration: Durations<HttpLabels>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set, everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("demo");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let ready = register!("pool_ready_instances", "Instances that wait for a visitor", Family::default());
        let assigned =
            register!("pool_assigned_instances", "Instances in a visitor's hands", Family::default());
        let warming = register!("pool_warming_instances", "Instances being made", Family::default());
        let target = register!("pool_target_size", "Ready instances wanted", Family::default());
        let capacity = register!("pool_capacity", "Most instances in all states", Family::default());
        let memory = MemoryMetrics::register(&mut registry);
        let criu_available =
            register!("criu_available", "1 when checkpoints can be restored", Gauge::default());
        let build_info =
            register!("build_info", "1, labelled with the version", Family::<BuildLabels, Gauge>::default());
        build_info.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        let acquisitions = register!("acquisitions", "Acquires by how they ended", Family::default());
        let releases = register!("releases", "Instances that ended, by reason", Family::default());
        let provisions = register!("provisions", "Instances made, by method and result", Family::default());
        let bakes = register!("bakes", "Attempts to make a golden checkpoint", Family::default());
        let rate_limit_hits =
            register!("rate_limit_hits", "Acquires refused by a rate limit", Counter::default());
        let passed_on = register!(
            "requests_passed_on",
            "Requests for another server's instances that went on to that server",
            Counter::default()
        );
        let health_checks = register!("health_checks", "Ready checks by result", Family::default());
        let route_operations = register!("route_operations", "Changes of the route table", Family::default());
        let acquisition_duration =
            register!("acquisition_duration_seconds", "From an acquire's claim to its answer", histogram());
        let provision_duration = register!(
            "provision_duration_seconds",
            "From nothing to ready",
            Durations::new_with_constructor(histogram as fn() -> Histogram)
        );
        let restore_duration =
            register!("criu_restore_duration_seconds", "From the snapshot to the task started", histogram());
        let bake_duration =
            register!("bake_duration_seconds", "From nothing to a golden checkpoint", histogram());
        let health_check_duration =
            register!("health_check_duration_seconds", "One attempt of a ready check", histogram());
        let wait_for_ready_duration =
            register!("wait_for_ready_duration_seconds", "From started to ready", histogram());
        let route_add_duration = register!("route_add_duration_seconds", "Adding one route", histogram());
        let route_remove_duration =
            register!("route_remove_duration_seconds", "Removing one route", histogram());
        let http_request_duration = register!(
            "http_request_duration_seconds",
            "Requests by route pattern",
            Durations::new_with_constructor(histogram as fn() -> Histogram)
        );
        Self {
            registry,
            criu_available,
            ready,
            assigned,
            warming,
            target,
            capacity,
            memory,
            acquisitions,
            releases,
            provisions,
            bakes,
            rate_limit_hits,
            passed_on,
            health_checks,
            route_operations,
            acquisition_duration,
            provision_duration,
            restore_duration,
            bake_duration,
            health_check_duration,
            wait_for_ready_duration,
            route_add_duration,
            route_remove_duration,
            http_request_duration,
        }
    }

    /// The state of one template's pool.
    pub fn pool(&self, template: &str, counts: crate::instance::Counts, target: usize, capacity: usize) {
        let label = TemplateLabel { template: template.to_owned() };
        let gauges = [
            (&self.ready, counts.ready),
            (&self.assigned, counts.assigned),
            (&self.warming, counts.warming),
            (&self.target, target),
            (&self.capacity, capacity),
        ];
        for (gauge, value) in gauges {
            gauge.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// What the instances of one template take of this host's memory.
    pub fn memory(&self, template: &str, memory: PoolMemory) {
        self.memory.set(template, memory);
    }

    /// One acquire. A refused one counts as a rate limit hit too.
    pub fn acquired(&self, template: &str, result: AcquireResult, took: Duration) {
        self.acquisitions.get_or_create(&AcquireLabels { template: template.to_owned(), result }).inc();
        if result == AcquireResult::RateLimited {
            self.rate_limit_hits.inc();
        }
        self.acquisition_duration.observe(took.as_secs_f64());
    }

    /// One instance that ended.
    pub fn released(&self, template: &str, reason: ReleaseReason) {
        self.releases.get_or_create(&ReleaseLabels { template: template.to_owned(), reason }).inc();
    }

    /// One attempt to make an instance.
    pub fn provisioned(&self, template: &str, method: ProvisionMethod, result: Outcome, took: Duration) {
        self.provisions
            .get_or_create(&ProvisionLabels { template: template.to_owned(), method, result })
            .inc();
        if result == Outcome::Success {
            self.provision_duration.get_or_create(&MethodLabel { method }).observe(took.as_secs_f64());
        }
    }

    /// Whether instances can be restored on this host.
    pub fn can_restore(&self, can: bool) {
        self.criu_available.set(can.into());
    }

    /// One attempt to make a golden checkpoint.
    pub fn baked(&self, template: &str, result: Outcome, took: Duration) {
        self.bakes.get_or_create(&BakeLabels { template: template.to_owned(), result }).inc();
        if result == Outcome::Success {
            self.bake_duration.observe(took.as_secs_f64());
        }
    }

    /// The time from the order to the started task of one instance that was restored.
    pub fn restored(&self, took: Duration) {
        self.restore_duration.observe(took.as_secs_f64());
    }

    /// One attempt of a ready check.
    pub fn health_checked(&self, result: Outcome, took: Duration) {
        self.health_checks.get_or_create(&OutcomeLabel { result }).inc();
        self.health_check_duration.observe(took.as_secs_f64());
    }

    /// The time from started to ready of one instance.
    pub fn waited_for_ready(&self, took: Duration) {
        self.wait_for_ready_duration.observe(took.as_secs_f64());
    }

    /// One change of the route table.
    pub fn route_changed(&self, operation: RouteOperation, result: Outcome, took: Duration) {
        self.route_operations.get_or_create(&RouteLabels { operation, result }).inc();
        match operation {
            RouteOperation::Add => self.route_add_duration.observe(took.as_secs_f64()),
            RouteOperation::Remove => self.route_remove_duration.observe(took.as_secs_f64()),
            RouteOperation::Update | RouteOperation::Resync => {}
        }
    }

    /// One request for another server's instance that goes on to that server.
    pub fn passed_on(&self) {
        self.passed_on.inc();
    }

    /// One request: its metric and its log line.
    pub fn request(&self, line: RequestLine<'_>) {
        let labels = HttpLabels { method: known_method(line.method), path: line.path, status: line.status };
        self.http_request_duration.get_or_create(&labels).observe(line.took.as_secs_f64());
        tracing::info!(
            request_id = line.id,
            host = line.host.as_str(),
            method = labels.method,
            path = line.path,
            status = line.status,
            micros = u64::try_from(line.took.as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }

    /// The metrics page.
    pub fn page(&self, format: Format) -> String {
        let mut page = String::new();
        if encode(&mut page, &self.registry).is_err() {
            // Writing to a String fails only when a metric refuses to be written; say so instead of half a page.
            page.clear();
            let _ = writeln!(page, "# EOF");
        }
        match format {
            Format::OpenMetrics => page,
            Format::Text => from_openmetrics(&page),
        }
    }
}

/// Any text is a method to HTTP, but a label must have few values.
fn known_method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_names_of_the_contract_in_both_formats() {
        let metrics = Metrics::new();
        metrics.acquired("shop", AcquireResult::RateLimited, Duration::from_micros(60));
        metrics.pool("shop", crate::instance::Counts { ready: 3, ..Default::default() }, 5, 20);
        metrics.provisioned("shop", ProvisionMethod::ColdStart, Outcome::Success, Duration::from_millis(20));
        let memory = PoolMemory { instances: 2, private_bytes: 7, shared_bytes: 9, ..PoolMemory::default() };
        metrics.memory("shop", memory);
        let text = metrics.page(Format::Text);
        for line in [
            "# TYPE demo_acquisitions_total counter",
            "demo_acquisitions_total{template=\"shop\",result=\"rate_limited\"} 1",
            "demo_rate_limit_hits_total 1",
            "demo_pool_ready_instances{template=\"shop\"} 3",
            "demo_criu_available 0",
            "demo_pool_memory_instances{template=\"shop\"} 2",
            "demo_pool_memory_private_bytes{template=\"shop\"} 7",
            "demo_pool_memory_proportional_bytes{template=\"shop\"} 0",
            "demo_pool_memory_charged_bytes{template=\"shop\"} 0",
            "demo_pool_memory_shared_bytes{template=\"shop\"} 9",
            "demo_provision_duration_seconds_count{method=\"cold_start\"} 1",
            "demo_acquisition_duration_seconds_bucket{le=\"0.0001\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no line `{line}` in\n{text}");
        }
        assert!(!text.contains("# EOF"));
        let open = metrics.page(Format::OpenMetrics);
        assert!(open.ends_with("# EOF\n"));
        assert!(open.contains("# TYPE demo_acquisitions counter"));
    }
}
