//! The steps of an acquire and of a request to an instance, each alone and without network: `cargo bench`.
//!
//! | group | what it measures |
//! |---|---|
//! | `routes` | a look-up in the route table |
//! | `dispatch` | the check of a browser's head, and the destination of its host |
//! | `store` | a claim and a release |
//! | `instance` | the transitions of one instance |
//! | `acquire` | the API's handler, from the parsed head to the whole response, on the embedded store |
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use std::collections::HashSet;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::measurement::{Measurement, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use try_it_now::api::{Api, ApiKey, TrustedOrigins};
use try_it_now::clock::{Clock, Millis};
use try_it_now::cluster::queue::QueueAccess;
use try_it_now::cluster::queue::memory::MemoryQueue;
use try_it_now::config::{PublicUrl, Scheme, TrustedProxies};
use try_it_now::instance::{ClaimToken, Endpoint, Instance, InstanceId, NodeId, RateLimits, TemplateName};
use try_it_now::pool::{self, Pool};
use try_it_now::proxy::routes::{RouteLookup, RouteTable};
use try_it_now::request::{Destination, Hosts, Peer, Provenance, RequestContext};
use try_it_now::runtime::{Exit, NoDatabases, Runtime, RuntimeError, StartMethod, StartRequest, Started};
use try_it_now::server::http1_guard::head;
use try_it_now::store::memory::MemoryStore;
use try_it_now::store::{Claim, Claimed, RouteChange, Store, Visitor};
use try_it_now::telemetry::Metrics;
use try_it_now::template::{App, Hooks, NodeSecret, PoolSizes, ReadyCheck, Secret, Template, Templates};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HOUR: Duration = Duration::from_secs(3600);
const START: Millis = Millis(1_700_000_000_000);
const NO_LIMITS: RateLimits = RateLimits::NONE;
/// Labels that are looked up in turn. Their routes in a big table do not fit in the processor's caches.
const LABEL_COUNT: usize = 65_536;
/// Claims between two refills. Refills are not measured.
const BATCH_SIZE: u64 = 8;

fn template() -> TemplateName {
    TemplateName::new("default").unwrap()
}

fn node() -> NodeId {
    NodeId::parse("n").unwrap()
}

fn endpoint(n: usize) -> Endpoint {
    (Ipv4Addr::from(0x7f00_0001 + n as u32), 4000).into()
}

fn warming() -> Instance {
    Instance::warming(InstanceId::random(&template()), node(), 1, START)
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("routes");
    for hosts in [10, 10_000, 1_000_000] {
        let table = RouteTable::default();
        let mut labels = Vec::new();
        for n in 0..hosts {
            let token = ClaimToken(n as u128);
            let ready = warming().offered(endpoint(n)).unwrap();
            let instance = ready.assigned(token, START, HOUR).unwrap();
            // Ids are random, so the labels that are kept are spread over the whole table.
            if labels.len() < LABEL_COUNT {
                labels.push(instance.id().as_str().to_owned());
            }
            table.apply(&RouteChange::Set(instance));
        }
        let absent: Vec<_> = (0..1024).map(|_| InstanceId::random(&template()).to_string()).collect();
        let (mut known, mut unknown) = (labels.iter().cycle(), absent.iter().cycle());
        group.bench_function(format!("hit/{hosts}"), |b| {
            b.iter(|| {
                let found = table.find(known.next().unwrap());
                assert!(matches!(found, RouteLookup::Live(_)));
                found
            });
        });
        group.bench_function(format!("miss/{hosts}"), |b| {
            b.iter(|| {
                let found = table.find(unknown.next().unwrap());
                assert!(matches!(found, RouteLookup::Unknown));
                found
            });
        });
    }
}

const BROWSER_HEAD: &[u8] = b"GET /wp-admin/index.php?page=1 HTTP/1.1\r\n\
Host: shop-abcdefghij234567.demo.example.com:8080\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cache-Control: max-age=0\r\n\
Connection: keep-alive\r\n\
Cookie: session=6f1c2a9be0d14b5f8a77; theme=dark; seen=1\r\n\
Referer: http://shop-abcdefghij234567.demo.example.com:8080/\r\n\
Sec-Fetch-Dest: document\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Site: same-origin\r\n\
Upgrade-Insecure-Requests: 1\r\n\r\n";

fn dispatch(c: &mut Criterion) {
    let hosts = Hosts::new("demo.example.com", []);
    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Bytes(BROWSER_HEAD.len() as u64));
    group.bench_function("browser head", |b| {
        b.iter(|| {
            let bytes = black_box(BROWSER_HEAD);
            let end = head::find_end(bytes, 0).unwrap();
            let head = head::check(&bytes[..end]).unwrap();
            let destination = hosts.destination_of(head.host(bytes));
            assert!(matches!(destination, Destination::Instance(_)));
            head
        });
    });
}

fn instance(c: &mut Criterion) {
    c.bench_function("instance/warming to expired in five steps", |b| {
        b.iter_batched(
            warming,
            |new| {
                let ready = new.offered(endpoint(1)).unwrap();
                let assigned = ready.assigned(ClaimToken(1), START, HOUR).unwrap();
                let longer = assigned.extended(HOUR, 4 * HOUR, START).unwrap().unwrap();
                let longer = longer.extended(HOUR, 4 * HOUR, START).unwrap().unwrap();
                longer.expired(START + 3 * HOUR).unwrap()
            },
            BatchSize::SmallInput,
        );
    });
}

/// Adds `count` ready instances to the store.
async fn add_ready(store: &dyn Store, count: u64) {
    for n in 0..count {
        let new = warming();
        let id = new.id().clone();
        store.insert(new).await.unwrap();
        store.offer(&id, endpoint(n as usize)).await.unwrap();
    }
}

fn store(c: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("store");
    for ready in [10, 100_000] {
        let store = MemoryStore::new(Clock::System);
        tokio.block_on(add_ready(&store, ready));
        group.bench_function(format!("claim and release/{ready}"), |b| {
            b.to_async(&tokio).iter_custom(async |rounds| {
                let mut elapsed = Duration::ZERO;
                let mut left = rounds;
                while left > 0 {
                    let batch = left.min(BATCH_SIZE);
                    left -= batch;
                    let start = WallTime.start();
                    for _ in 0..batch {
                        let claimed = store.claim(&claim()).await.unwrap();
                        let Claimed::Granted { instance, .. } = claimed else { panic!("{claimed:?}") };
                        store.release(instance.id()).await.unwrap();
                    }
                    elapsed += WallTime.end(start);
                    add_ready(&store, batch).await;
                }
                elapsed
            });
        });
    }
}

fn claim() -> Claim {
    Claim {
        template: template(),
        token: ClaimToken::random(),
        node: node(),
        visitor: Visitor::new("192.0.2.1"),
        limits: NO_LIMITS,
        ttl: HOUR,
    }
}

/// A runtime that runs no process: its instances are ids only.
#[derive(Default)]
struct NullRuntime(Mutex<HashSet<InstanceId>>);

#[async_trait]
impl Runtime for NullRuntime {
    fn name(&self) -> &'static str {
        "null"
    }
    fn runs_apps(&self) -> bool {
        false
    }
    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        self.0.lock().insert(request.id.clone());
        Ok(Started { endpoint: endpoint(1), method: StartMethod::Cold })
    }
    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        self.0.lock().remove(id);
        Ok(())
    }
    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.0.lock().iter().cloned().collect())
    }
    async fn logs(&self, _: &InstanceId) -> Option<Bytes> {
        None
    }
    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        mpsc::unbounded_channel().1
    }
}

/// The templates: one, whose visitors have this rate limit.
fn templates(rate_limit: RateLimits) -> Templates {
    let app = App { command: vec!["app".to_owned()], ..App::default() };
    let pool = PoolSizes {
        target: 10,
        min: 0,
        max: 100_000,
        limited_by_memory: false,
        replenish_threshold: 0.5,
        replenish_interval: HOUR,
        concurrency: 4,
        max_idle_age: None,
    };
    let template = Template {
        name: template(),
        title: String::new(),
        description: String::new(),
        app: Arc::new(app),
        ready: ReadyCheck::default(),
        recheck_interval: HOUR,
        warm_up: Vec::new(),
        hooks: Hooks::default(),
        database: None,
        admin_path: "/admin".to_owned(),
        pool,
        ttl: HOUR,
        max_ttl: 24 * HOUR,
        rate_limit,
        silence: Duration::from_secs(60),
        revision: 1,
    };
    Templates::new(vec![template]).unwrap()
}

fn acquire(c: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("acquire");
    let high_limits = RateLimits { hourly: u32::MAX, daily: u32::MAX, concurrent: u32::MAX };
    for (name, limits) in [("without limits", NO_LIMITS), ("with rate limits", high_limits)] {
        let store = Arc::new(MemoryStore::new(Clock::System));
        let (routes, metrics) = (Arc::new(RouteTable::default()), Arc::new(Metrics::new()));
        // The pool does not run, so that only the handler is measured. The bench refills the pool.
        let pool = Pool::new(pool::PoolParts {
            store: store.clone(),
            runtime: Arc::new(NullRuntime::default()),
            databases: Arc::new(NoDatabases),
            queue: QueueAccess { queue: Arc::new(MemoryQueue::default()), workers: 1 },
            routes: routes.clone(),
            metrics: metrics.clone(),
            clock: Clock::System,
            node: node(),
            secret: Some(NodeSecret::random(Secret::new("secret"))),
            public_url: Arc::new(PublicUrl {
                scheme: Scheme::Http,
                port: 8080,
                home_host: "demo.example.com".to_owned(),
                base_domain: "demo.example.com".to_owned(),
            }),
            templates: templates(limits),
            acquire_timeout: Duration::from_secs(2),
        });
        let origins =
            TrustedOrigins { home: "http://localhost".parse().unwrap(), button_origins: Vec::new() };
        let trusted = TrustedProxies::default();
        let key = ApiKey { secret: Secret::new("key"), is_required: false };
        let api = Api::new(&pool, metrics, key, trusted.clone(), origins, CancellationToken::new());
        let request = http::Request::post("/api/v1/demo/acquire")
            .header("host", "demo.example.com:8080")
            .header("user-agent", "bench")
            .body(())
            .unwrap();
        let (parts, ()) = request.into_parts();
        let peer = Peer { address: [192, 0, 2, 1].into(), is_secure: false };
        group.bench_function(name, |b| {
            b.to_async(&tokio).iter_custom(async |rounds| {
                let mut elapsed = Duration::ZERO;
                let mut left = rounds;
                while left > 0 {
                    let batch = left.min(BATCH_SIZE);
                    left -= batch;
                    add_ready(&*store, batch).await;
                    let start = WallTime.start();
                    for _ in 0..batch {
                        let context = RequestContext::new(
                            Destination::Api,
                            Provenance::FromOutside,
                            peer,
                            &parts.headers,
                            &trusted,
                        );
                        let mut response = api.handle(&parts, Ok(Bytes::new()), &context).await;
                        assert_eq!(response.status(), 200);
                        // An engine does this once it has written the response.
                        response.body_mut().take_delivery().expect("an instance is assigned").complete();
                        black_box(response);
                    }
                    elapsed += WallTime.end(start);
                    for instance in store.list(&node()).await.unwrap() {
                        store.release(instance.id()).await.unwrap();
                        routes.apply(&RouteChange::Gone(instance.id().clone()));
                    }
                }
                elapsed
            });
        });
    }
}

criterion_group! {
    name = hot;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .without_plots();
    targets = routes, dispatch, instance, store, acquire
}
criterion_main!(hot);
