//! The whole server: the real program, spoken to over real sockets.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod containers;
mod contract;
mod contract_access;
mod contract_bounds;
mod contract_errors;
mod contract_events;
mod contract_limits;
mod contract_metrics;
mod contract_pages;
mod contract_time;
mod deliveries;
mod doctor;
mod harness;
mod heavy_apart;
mod heavy_containers;
mod heavy_deliveries;
mod heavy_nodes;
mod heavy_streams;
mod heavy_tunnels;
mod lifecycle_config;
mod lifecycle_crash;
mod lifecycle_pool;
mod lifecycle_reload;
mod lifecycle_stop;
mod limits;
mod mixing;
mod nodes;
mod on_containers;
mod once;
mod passing_on;
mod proxying;
mod smuggling;
mod soak;
#[path = "../conformance/stack.rs"]
mod stack;
mod streams;
mod tls;
#[path = "../conformance/traces.rs"]
mod traces;
mod tunnels;
mod uploads;
mod upstreams;
mod valkey;

// How a Valkey is started, as for the conformance of the store.
#[allow(dead_code, reason = "clusters and Sentinels are tried elsewhere")]
#[path = "../conformance/store/valkey/servers.rs"]
mod valkeys;

// A link to it that breaks in every way.
#[allow(dead_code, reason = "what else can break is tried elsewhere")]
#[path = "../conformance/store/valkey/proxy.rs"]
mod links;
