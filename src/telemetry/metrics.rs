//! Every metric, with its name in the contract. Durations are in seconds.

use std::fmt::Write as _;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::label_sets::{
    AcquireLabels, BakeLabels, BuildLabels, HttpLabels, MethodLabel, OutcomeLabel, ProvisionLabels,
    RefusalLabel, ReleaseLabels, RouteLabels, TemplateLabel,
};
use super::labels::{
    AcquireResult, ConnectionRefusal, HostKind, Outcome, ProvisionMethod, ReleaseReason, RouteOperation,
};
use super::log::DroppedLogLines;
use super::memory_metrics::{MemoryMetrics, PoolMemory};
use super::text_format::from_openmetrics;
use super::version::COMMIT;

/// Upper bounds in seconds: from 50 µs, since an acquire takes microseconds, to the minutes of a cold start.
const DURATION_BUCKETS: [f64; 20] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 120.0,
];

type DurationFamily<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

/// The format of the metrics page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// The text format of Prometheus, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// What is recorded of one request, in its log line and its metric.
#[derive(Debug, Clone, Copy)]
pub struct RequestRecord<'a> {
    /// The request's id.
    pub id: &'a str,
    /// The kind of host that the request named.
    pub host: HostKind,
    /// The method, as the client wrote it.
    pub method: &'a http::Method,
    /// The pattern of the path, never the path itself.
    pub path: &'static str,
    /// The status of the response; 0 if the client left before it.
    pub status: u16,
    /// The time from the head of the request until the response was complete, or until it began if it is a stream.
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
    forwarded_requests: Counter,
    connections_refused: Family<RefusalLabel, Counter>,
    health_checks: Family<OutcomeLabel, Counter>,
    route_operations: Family<RouteLabels, Counter>,
    acquisition_duration: Histogram,
    provision_duration: DurationFamily<MethodLabel>,
    restore_duration: Histogram,
    bake_duration: Histogram,
    health_check_duration: Histogram,
    wait_for_ready_duration: Histogram,
    route_add_duration: Histogram,
    route_remove_duration: Histogram,
    http_request_duration: DurationFamily<HttpLabels>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates the metrics, each at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("demo");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let ready = register!("pool_ready_instances", "Ready instances", Family::default());
        let assigned =
            register!("pool_assigned_instances", "Instances assigned to a visitor", Family::default());
        let warming = register!("pool_warming_instances", "Instances that are being made", Family::default());
        let target = register!("pool_target_size", "Ready instances that the pool keeps", Family::default());
        let capacity = register!("pool_capacity", "Most instances in all states", Family::default());
        let memory = MemoryMetrics::register(&mut registry);
        registry.register_collector(Box::new(DroppedLogLines));
        let criu_available =
            register!("criu_available", "1 when checkpoints can be restored", Gauge::default());
        let build_info = register!(
            "build_info",
            "1, labelled with version and commit",
            Family::<BuildLabels, Gauge>::default()
        );
        build_info.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION"), commit: COMMIT }).set(1);
        let acquisitions = register!("acquisitions", "Acquires by result", Family::default());
        let releases = register!("releases", "Instances that ended, by reason", Family::default());
        let provisions = register!("provisions", "Instances made, by method and result", Family::default());
        let bakes = register!("bakes", "Bakes by result", Family::default());
        let rate_limit_hits =
            register!("rate_limit_hits", "Acquires refused by a rate limit", Counter::default());
        let forwarded_requests = register!(
            "requests_passed_on",
            "Requests for another node's instances that were forwarded to that node",
            Counter::default()
        );
        let connections_refused =
            register!("connections_refused", "Connections refused by a maximum", Family::default());
        let health_checks = register!("health_checks", "Ready checks by result", Family::default());
        let route_operations = register!("route_operations", "Changes of the route table", Family::default());
        let acquisition_duration = register!(
            "acquisition_duration_seconds",
            "Time from an acquire's claim to its response",
            histogram()
        );
        let provision_duration = register!(
            "provision_duration_seconds",
            "Time to make one instance, until it is ready",
            DurationFamily::new_with_constructor(histogram as fn() -> Histogram)
        );
        let restore_duration = register!(
            "criu_restore_duration_seconds",
            "Time to restore one instance, until its task is started",
            histogram()
        );
        let bake_duration = register!("bake_duration_seconds", "Time to bake one checkpoint", histogram());
        let health_check_duration =
            register!("health_check_duration_seconds", "Time of one attempt of a ready check", histogram());
        let wait_for_ready_duration = register!(
            "wait_for_ready_duration_seconds",
            "Time from the start of an instance until it is ready",
            histogram()
        );
        let route_add_duration =
            register!("route_add_duration_seconds", "Time to add one route", histogram());
        let route_remove_duration =
            register!("route_remove_duration_seconds", "Time to remove one route", histogram());
        let http_request_duration = register!(
            "http_request_duration_seconds",
            "Time of one request, by pattern of its path",
            DurationFamily::new_with_constructor(histogram as fn() -> Histogram)
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
            forwarded_requests,
            connections_refused,
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

    /// Sets the gauges of one template's pool.
    pub fn set_pool_counts(
        &self,
        template: &str,
        counts: crate::instance::StateCounts,
        target: usize,
        capacity: usize,
    ) {
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

    /// Sets the gauges of the memory that the instances of one template use on this host.
    pub fn set_pool_memory(&self, template: &str, memory: PoolMemory) {
        self.memory.set(template, memory);
    }

    /// Records one acquire. One that is refused by a rate limit counts as a rate limit hit, too.
    pub fn record_acquire(&self, template: &str, result: AcquireResult, took: Duration) {
        self.acquisitions.get_or_create(&AcquireLabels { template: template.to_owned(), result }).inc();
        if result == AcquireResult::RateLimited {
            self.rate_limit_hits.inc();
        }
        self.acquisition_duration.observe(took.as_secs_f64());
    }

    /// Records one instance that ended.
    pub fn record_release(&self, template: &str, reason: ReleaseReason) {
        self.releases.get_or_create(&ReleaseLabels { template: template.to_owned(), reason }).inc();
    }

    /// Records one attempt to make an instance.
    pub fn record_provision(&self, template: &str, method: ProvisionMethod, result: Outcome, took: Duration) {
        self.provisions
            .get_or_create(&ProvisionLabels { template: template.to_owned(), method, result })
            .inc();
        if result == Outcome::Success {
            self.provision_duration.get_or_create(&MethodLabel { method }).observe(took.as_secs_f64());
        }
    }

    /// Sets whether instances can be restored from a checkpoint on this host.
    pub fn set_criu_available(&self, is_available: bool) {
        self.criu_available.set(is_available.into());
    }

    /// Records one bake.
    pub fn record_bake(&self, template: &str, result: Outcome, took: Duration) {
        self.bakes.get_or_create(&BakeLabels { template: template.to_owned(), result }).inc();
        if result == Outcome::Success {
            self.bake_duration.observe(took.as_secs_f64());
        }
    }

    /// Records the time of one restore, from the start request until the task is started.
    pub fn record_restore(&self, took: Duration) {
        self.restore_duration.observe(took.as_secs_f64());
    }

    /// Records one attempt of a ready check.
    pub fn record_ready_check(&self, result: Outcome, took: Duration) {
        self.health_checks.get_or_create(&OutcomeLabel { result }).inc();
        self.health_check_duration.observe(took.as_secs_f64());
    }

    /// Records the time that one instance took from its start until it was ready.
    pub fn record_ready_wait(&self, took: Duration) {
        self.wait_for_ready_duration.observe(took.as_secs_f64());
    }

    /// Records one change of the route table.
    pub fn record_route_change(&self, operation: RouteOperation, result: Outcome, took: Duration) {
        self.route_operations.get_or_create(&RouteLabels { operation, result }).inc();
        match operation {
            RouteOperation::Add => self.route_add_duration.observe(took.as_secs_f64()),
            RouteOperation::Remove => self.route_remove_duration.observe(took.as_secs_f64()),
            RouteOperation::Update | RouteOperation::Resync => {}
        }
    }

    /// Records one request for another node's instance that is forwarded to that node.
    pub fn record_forwarded_request(&self) {
        self.forwarded_requests.inc();
    }

    /// Records one connection that is refused.
    pub fn record_refused_connection(&self, reason: ConnectionRefusal) {
        self.connections_refused.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// Records one request in its metric and in a log line.
    pub fn record_request(&self, request: RequestRecord<'_>) {
        let labels =
            HttpLabels { method: method_label(request.method), path: request.path, status: request.status };
        self.http_request_duration.get_or_create(&labels).observe(request.took.as_secs_f64());
        tracing::info!(
            request_id = request.id,
            host = request.host.as_str(),
            method = labels.method,
            path = request.path,
            status = request.status,
            micros = u64::try_from(request.took.as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }

    /// Returns the metrics page.
    pub fn render(&self, format: MetricsFormat) -> String {
        let mut page = String::new();
        if encode(&mut page, &self.registry).is_err() {
            // Writing to a String fails only if a metric refuses to be encoded. An empty page is better than half a
            // page.
            page.clear();
            let _ = writeln!(page, "# EOF");
        }
        match format {
            MetricsFormat::OpenMetrics => page,
            MetricsFormat::Text => from_openmetrics(&page),
        }
    }
}

/// Returns a method as a label. HTTP allows any token as a method, but a label must have few values.
fn method_label(method: &http::Method) -> &'static str {
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
        metrics.record_acquire("shop", AcquireResult::RateLimited, Duration::from_micros(60));
        metrics.set_pool_counts(
            "shop",
            crate::instance::StateCounts { ready: 3, ..Default::default() },
            5,
            20,
        );
        metrics.record_provision(
            "shop",
            ProvisionMethod::ColdStart,
            Outcome::Success,
            Duration::from_millis(20),
        );
        let memory = PoolMemory { instances: 2, private_bytes: 7, shared_bytes: 9, ..PoolMemory::default() };
        metrics.set_pool_memory("shop", memory);
        let text = metrics.render(MetricsFormat::Text);
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
        let open = metrics.render(MetricsFormat::OpenMetrics);
        assert!(open.ends_with("# EOF\n"));
        assert!(open.contains("# TYPE demo_acquisitions counter"));
    }
}
