//! Pools on a store and a runtime that fail on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::test_app::TestApp;
use super::test_databases::TestDatabases;
use super::test_runtime::TestRuntime;
use super::test_store::TestStore;
use crate::clock::{Clock, Millis};
use crate::cluster::queue::QueueAccess;
use crate::cluster::queue::memory::MemoryQueue;
use crate::config::{PublicUrl, Scheme};
use crate::instance::{Instance, InstanceId, NodeId, RateLimits, TemplateName};
use crate::pool::supply::attempt;
use crate::pool::template_pool::TemplatePool;
use crate::pool::{Pool, PoolParts};
use crate::proxy::routes::RouteTable;
use crate::runtime::{Databases, NoDatabases, Runtime as _};
use crate::store::{DeadlineStore, Store as _};
use crate::telemetry::Metrics;
use crate::template::hooks::{ExecHook, HookCalls, HttpHook, TemplateText};
use crate::template::{App, Database, Hooks, NodeSecret, PoolSizes, ReadyCheck, Secret, Template, Templates};

pub(crate) const START: Millis = Millis(1_700_000_000_000);
/// A timeout that is reached only if a task hangs.
pub(super) const LONG: Duration = Duration::from_secs(20);
/// The path of the ready check, and that of the one warm-up request.
pub(super) const READY: &str = "/ready";
pub(super) const WARM: &str = "/warm";
/// The path of the bake hook's request, that of the instance hook's, and the command after it.
pub(super) const BAKE: &str = "/bake";
pub(super) const OWN: &str = "/own";
pub(super) const COMMAND: &str = "make-own";

/// Returns a template by name and revision, with a pool of `target` and `max`.
pub(super) fn template(name: &str, revision: u64, target: usize, max: usize) -> Template {
    Template {
        name: TemplateName::new(name).unwrap(),
        title: String::new(),
        description: String::new(),
        app: Arc::new(App { command: vec!["app".to_owned()], ..App::default() }),
        ready: ReadyCheck {
            path: READY.to_owned(),
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(400),
            ..ReadyCheck::default()
        },
        recheck_interval: Duration::from_secs(1),
        warm_up: vec![WARM.to_owned()],
        hooks: hooks(),
        database: Some(Database { seed: None, max_connections: 1, env: BTreeMap::new() }),
        admin_path: "/".to_owned(),
        pool: PoolSizes {
            target,
            min: 0,
            max,
            limited_by_memory: false,
            replenish_threshold: 0.5,
            replenish_interval: Duration::from_secs(1),
            concurrency: 2,
            max_idle_age: None,
        },
        ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(12),
        rate_limit: RateLimits::NONE,
        silence: Duration::from_secs(60),
        revision,
    }
}

fn hooks() -> Hooks {
    let words = |text: &str| TemplateText::parse(text, |name| name == "KEY").unwrap();
    let request = |path: &str| HttpHook {
        method: "POST".to_owned(),
        path: words(path),
        headers: [("x-key".to_owned(), words("{KEY}"))].into(),
        body: TemplateText::default(),
        status: None,
        timeout: Duration::from_millis(400),
    };
    let timeout = Duration::from_millis(400);
    let command = ExecHook { command: vec![words(COMMAND), words("{KEY}")], timeout };
    Hooks {
        random: [("KEY".to_owned(), 16)].into(),
        files: Vec::new(),
        calls: HookCalls { http: vec![request(OWN)], exec: vec![command] },
        bake: HookCalls { http: vec![request(BAKE)], exec: Vec::new() },
        credentials: Some(words("{KEY}")),
    }
}

pub(super) fn templates(list: Vec<Template>) -> Templates {
    Templates::new(list).unwrap()
}

/// Creates pools that are not running yet, and whose instances have no databases.
pub(super) fn pool(
    store: &Arc<TestStore>,
    runtime: &Arc<TestRuntime>,
    clock: &Clock,
    node: &NodeId,
    configured: Templates,
) -> Arc<Pool> {
    pool_with(store, runtime, Arc::new(NoDatabases), clock, node, configured)
}

fn pool_with(
    store: &Arc<TestStore>,
    runtime: &Arc<TestRuntime>,
    databases: Arc<dyn Databases>,
    clock: &Clock,
    node: &NodeId,
    configured: Templates,
) -> Arc<Pool> {
    Pool::new(PoolParts {
        store: DeadlineStore::new(store.clone()),
        runtime: runtime.clone(),
        databases,
        queue: QueueAccess { queue: Arc::new(MemoryQueue::default()), workers: 3 },
        routes: Arc::new(RouteTable::default()),
        metrics: Arc::new(Metrics::new()),
        clock: clock.clone(),
        node: node.clone(),
        secret: Some(NodeSecret::random(Secret::new("secret"))),
        public_url: Arc::new(PublicUrl {
            scheme: Scheme::Http,
            port: 80,
            home_host: "demo.test".to_owned(),
            base_domain: "demo.test".to_owned(),
        }),
        templates: configured,
        acquire_timeout: Duration::from_secs(2),
    })
}

/// Creates a pool with a runtime all of whose instances are sealed, and reached at `app`.
pub(crate) fn sealed_pool(app: SocketAddr) -> Arc<Pool> {
    let clock = Clock::manual(START);
    let runtime = Arc::new(TestRuntime::new(Some(app), Duration::ZERO));
    let node = NodeId::parse("n").unwrap();
    let configured = templates(vec![template("t", 1, 0, 1)]);
    pool(&Arc::new(TestStore::new(clock.clone())), &runtime, &clock, &node, configured)
}

/// The pool of one template `t`, whose attempts are begun one by one.
pub(super) struct Fixture {
    pub(super) pool: Arc<Pool>,
    pub(super) store: Arc<TestStore>,
    pub(super) runtime: Arc<TestRuntime>,
    pub(super) databases: Arc<TestDatabases>,
    app: Option<TestApp>,
    pub(super) node: NodeId,
}

impl Fixture {
    /// Creates the pool with a real app behind each instance. Exits are watched; no other task of the pool runs.
    pub(super) async fn new() -> Self {
        let app = TestApp::start().await;
        let fixture = Self::with(Some(app), template("t", 1, 1, 4));
        let exits = fixture.runtime.exits();
        crate::telemetry::task::spawn(
            "exits",
            crate::pool::end::fail::watch_exits(fixture.pool.supply.clone(), exits),
        );
        fixture
    }

    /// Creates the pool of this template, with this app behind each instance, if any. No task of the pool runs.
    pub(super) fn with(app: Option<TestApp>, template: Template) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(TestStore::new(clock.clone()));
        let runtime = Arc::new(TestRuntime::new(app.as_ref().map(|app| app.endpoint), Duration::ZERO));
        let node = NodeId::parse("n").unwrap();
        let databases = Arc::<TestDatabases>::default();
        let configured = templates(vec![template]);
        let pool = pool_with(&store, &runtime, databases.clone(), &clock, &node, configured);
        Self { pool, store, runtime, databases, app, node }
    }

    pub(super) fn app(&self) -> &TestApp {
        self.app.as_ref().unwrap()
    }

    pub(super) fn template_pool(&self) -> Arc<TemplatePool> {
        self.pool.shared.template_pools.get("t").unwrap()
    }

    pub(super) fn begin(&self) {
        attempt::begin(&self.pool.supply, self.template_pool());
    }

    /// Waits until every task of the pool has ended.
    pub(super) async fn tasks_ended(&self) {
        self.pool.supply.tasks.close();
        tokio::time::timeout(LONG, self.pool.supply.tasks.wait()).await.expect("a task of the pool hangs");
        self.pool.supply.tasks.reopen();
    }

    /// Makes one attempt, and waits for its end.
    pub(super) async fn run_attempt(&self) {
        self.begin();
        self.tasks_ended().await;
    }

    pub(super) async fn records(&self) -> Vec<Instance> {
        self.store.inner.list(&self.node).await.unwrap()
    }

    /// Returns the one instance that is locked.
    pub(super) fn only_locked(&self) -> InstanceId {
        let locked = self.pool.supply.in_flight.locked();
        assert_eq!(locked.len(), 1);
        locked.into_iter().next().unwrap()
    }

    /// Asserts that no instance is on record, runs, is locked or is being made.
    pub(super) async fn assert_nothing_left(&self, case: &str) {
        assert_eq!(self.records().await, [], "{case}: on record");
        assert_eq!(self.runtime.running(), [], "{case}: runs");
        assert_eq!(self.databases.names(), [] as [&str; 0], "{case}: has a database");
        self.assert_idle(case);
    }

    pub(super) fn assert_idle(&self, case: &str) {
        assert!(self.pool.supply.in_flight.locked().is_empty(), "{case}: locked");
        assert_eq!(self.template_pool().attempts.load(Ordering::SeqCst), 0, "{case}: being made");
    }

    /// Asserts that the next attempt makes an instance, after which no failure is remembered.
    pub(super) async fn assert_next_works(&self, case: &str) {
        self.run_attempt().await;
        let records = self.records().await;
        let states: Vec<_> = records.iter().map(|record| record.state().name()).collect();
        assert_eq!(states, ["ready"], "{case}: {:?}", self.template_pool().problem());
        assert_eq!(self.runtime.running(), [records[0].id().clone()], "{case}");
        assert_eq!((self.template_pool().pause(), self.template_pool().problem()), (None, None), "{case}");
        self.assert_idle(case);
    }
}
