//! A pool whose store and runtime do as they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::test_app::TestApp;
use super::test_runtime::TestRuntime;
use super::test_store::TestStore;
use crate::clock::{Clock, Millis};
use crate::config::{PublicUrl, Scheme};
use crate::instance::{Instance, InstanceId, Limits, NodeId, TemplateName};
use crate::pool::supply::provision;
use crate::pool::template_pool::TemplatePool;
use crate::pool::{Pool, PoolParts};
use crate::proxy::routes::RouteTable;
use crate::runtime::Runtime as _;
use crate::store::Store as _;
use crate::telemetry::Metrics;
use crate::template::App;
use crate::template::hooks::{Calls, ExecHook, HttpHook, TemplateText};
use crate::template::{Hooks, PoolSizes, ReadyCheck, Secret, Template, Templates};

pub(crate) const START: Millis = Millis(1_700_000_000_000);
/// A wait that only a hang makes so long.
pub(super) const LONG: Duration = Duration::from_secs(20);
/// The path of the ready check, and that of the one warm-up request.
pub(super) const READY: &str = "/ready";
pub(super) const WARM: &str = "/warm";
/// The path of the bake hook's request, that of the other's, and the command after it.
pub(super) const BAKE: &str = "/bake";
pub(super) const OWN: &str = "/own";
pub(super) const COMMAND: &str = "make-own";

/// A template by name and revision, with a pool of `target` and `max`.
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
        warm_up: vec![WARM.to_owned()],
        hooks: hooks(),
        admin_path: "/".to_owned(),
        pool: PoolSizes {
            target,
            min: 0,
            max,
            by_memory: false,
            replenish_threshold: 0.5,
            replenish_interval: Duration::from_secs(1),
            concurrency: 2,
        },
        ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(12),
        rate_limit: Limits { hourly: 0, daily: 0 },
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
        calls: Calls { http: vec![request(OWN)], exec: vec![command] },
        bake: Calls { http: vec![request(BAKE)], exec: Vec::new() },
        credentials: Some(words("{KEY}")),
    }
}

pub(super) fn templates(list: Vec<Template>) -> Templates {
    Templates::new(list).unwrap()
}

/// A pool on these, not running yet.
pub(super) fn pool(
    store: &Arc<TestStore>,
    runtime: &Arc<TestRuntime>,
    clock: &Clock,
    node: &NodeId,
    kept: Templates,
) -> Arc<Pool> {
    Pool::new(PoolParts {
        store: store.clone(),
        runtime: runtime.clone(),
        routes: Arc::new(RouteTable::default()),
        metrics: Arc::new(Metrics::new()),
        clock: clock.clone(),
        node: node.clone(),
        secret: Some(Secret::new("secret")),
        address: PublicUrl {
            scheme: Scheme::Http,
            port: 80,
            home: "demo.test".to_owned(),
            base_domain: "demo.test".to_owned(),
        },
        templates: kept,
        acquire_timeout: Duration::from_secs(2),
    })
}

/// A pool with a runtime all of whose instances are sealed, and reached at `app`.
pub(crate) fn sealed_pool(app: SocketAddr) -> Arc<Pool> {
    let clock = Clock::manual(START);
    let runtime = Arc::new(TestRuntime::new(Some(app), Duration::ZERO));
    let node = NodeId::parse("n").unwrap();
    let kept = templates(vec![template("t", 1, 0, 1)]);
    pool(&Arc::new(TestStore::new(clock.clone())), &runtime, &clock, &node, kept)
}

/// One template `t`, whose attempts are begun one by one.
pub(super) struct Stage {
    pub(super) pool: Arc<Pool>,
    pub(super) store: Arc<TestStore>,
    pub(super) runtime: Arc<TestRuntime>,
    app: Option<TestApp>,
    pub(super) node: NodeId,
}

impl Stage {
    /// With a real app behind each instance; exits are watched, and nothing else runs.
    pub(super) async fn new() -> Self {
        let app = TestApp::start().await;
        let stage = Self::with(Some(app), template("t", 1, 1, 4));
        let exits = stage.runtime.exits();
        crate::telemetry::task::spawn(
            "exits",
            crate::pool::supply::reconcile::watch_exits(stage.pool.clone(), exits),
        );
        stage
    }

    /// With this template, and this app behind each instance, if any. Nothing runs.
    pub(super) fn with(app: Option<TestApp>, kept: Template) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(TestStore::new(clock.clone()));
        let runtime = Arc::new(TestRuntime::new(app.as_ref().map(|app| app.endpoint), Duration::ZERO));
        let node = NodeId::parse("n").unwrap();
        let pool = pool(&store, &runtime, &clock, &node, templates(vec![kept]));
        Self { pool, store, runtime, app, node }
    }

    pub(super) fn app(&self) -> &TestApp {
        self.app.as_ref().unwrap()
    }

    pub(super) fn keeper(&self) -> Arc<TemplatePool> {
        self.pool.keepers.get("t").unwrap()
    }

    pub(super) fn begin(&self) {
        provision::begin(&self.pool, self.keeper());
    }

    /// Waits until every task of the pool has ended.
    pub(super) async fn settled(&self) {
        self.pool.tasks.close();
        tokio::time::timeout(LONG, self.pool.tasks.wait()).await.expect("a task of the pool hangs");
        self.pool.tasks.reopen();
    }

    /// Makes one attempt to its end.
    pub(super) async fn attempt(&self) {
        self.begin();
        self.settled().await;
    }

    pub(super) async fn records(&self) -> Vec<Instance> {
        self.store.inner.list(&self.node).await.unwrap()
    }

    /// The one instance in the making.
    pub(super) fn in_hand(&self) -> InstanceId {
        let held = self.pool.hands.held();
        assert_eq!(held.len(), 1);
        held.into_iter().next().unwrap()
    }

    /// Nothing is on record, runs, is held or is being made.
    pub(super) async fn assert_nothing_left(&self, case: &str) {
        assert_eq!(self.records().await, [], "{case}: on record");
        assert_eq!(self.runtime.running(), [], "{case}: runs");
        self.assert_idle(case);
    }

    pub(super) fn assert_idle(&self, case: &str) {
        assert!(self.pool.hands.held().is_empty(), "{case}: held");
        assert_eq!(self.keeper().making.load(Ordering::SeqCst), 0, "{case}: being made");
    }

    /// The next attempt makes an instance and forgets the failures.
    pub(super) async fn assert_next_works(&self, case: &str) {
        self.attempt().await;
        let records = self.records().await;
        let states: Vec<_> = records.iter().map(|record| record.life().name()).collect();
        assert_eq!(states, ["ready"], "{case}: {:?}", self.keeper().problem());
        assert_eq!(self.runtime.running(), [records[0].id().clone()], "{case}");
        assert_eq!((self.keeper().pause(), self.keeper().problem()), (None, None), "{case}");
        self.assert_idle(case);
    }
}
