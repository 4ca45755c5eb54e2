//! Valkey comes back with older data or with none, while two nodes claim each other's instances: no instance is granted
//! twice, and no grant is lost.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use try_it_now::clock::{Clock, Millis};
use try_it_now::instance::{
    ClaimToken, Instance, InstanceId, NodeId, RETENTION, RateLimits, ReachedLimit, State, Visitor,
};
use try_it_now::store::valkey::{Address, Mode, Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Cursor, RouteEvents, Store, StoreError};
use try_it_now::telemetry::task::spawn;

use super::{own_prefix, tcp};
use crate::suites::store::fixture::{MINUTE, NO_LIMITS, new_claim, node, template};
use crate::suites::store::nodes::node_info;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::valkey_server::{MAX_WAIT, Persistence, ValkeyCluster, ValkeyServer};

/// The longest time until claims work again while all nodes are alive.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(3);

const LEASE: Duration = Duration::from_secs(900);

/// The data that Valkey has after a crash.
#[derive(Debug, Clone, Copy, PartialEq)]
enum DataLoss {
    /// All that it has written.
    None,
    /// What it had written some time before.
    Recent,
    All,
}

/// A node as the store sees it: it sends heartbeats, fills its pool, and claims.
pub(super) struct Node {
    pub(super) store: Arc<ValkeyStore>,
    pub(super) name: &'static str,
}

pub(super) fn settings(server: &ValkeyServer, name: &str) -> Settings {
    Settings { addresses: vec![tcp(server.address())], node: node(name), ..Settings::default() }
}

pub(super) fn endpoint() -> try_it_now::instance::Endpoint {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let [_, a, b, c] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    ([10, a, b, c], 4000).into()
}

/// Repeats a call until it is answered.
pub(super) async fn until_answered<T>(
    mut ask: impl AsyncFnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let asking = async {
        loop {
            match ask().await {
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                answer => return answer,
            }
        }
    };
    timeout(MAX_WAIT, asking).await.expect("the store recovers")
}

impl Node {
    fn new(name: &'static str, settings: Settings) -> Self {
        Self { store: Arc::new(ValkeyStore::new(settings)), name }
    }

    async fn ready(&self) -> InstanceId {
        let id = InstanceId::random(&template("shop"));
        let new = Instance::warming(id.clone(), node(self.name), 1, Clock::System.now());
        self.store.insert(new).await.unwrap();
        self.store.offer(&id, endpoint()).await.unwrap();
        id
    }

    pub(super) async fn send_heartbeat(&self) {
        self.store.heartbeat(&node_info(self.name)).await.unwrap();
    }

    pub(super) fn claim(&self) -> Claim {
        Claim { node: node(self.name), ttl: LEASE, ..new_claim() }
    }

    /// Claims an instance, of this node or of another, until the store answers.
    async fn granted(&self) -> Instance {
        let claimed = until_answered(async || self.store.claim(&self.claim()).await).await.unwrap();
        claimed.instance().unwrap_or_else(|| panic!("{claimed:?}")).clone()
    }

    async fn state(&self, id: &InstanceId) -> Option<Instance> {
        until_answered(async || self.store.get(id).await).await.unwrap()
    }

    async fn ready_count(&self) -> usize {
        until_answered(async || self.store.counts(&template("shop"), None).await).await.unwrap().ready
    }

    /// Follows the route events to their end, as the proxy of a node does.
    async fn follow(&self) {
        let (_, cursor) = self.store.routes().await.unwrap();
        assert_eq!(
            self.store.route_events(cursor, Duration::ZERO).await,
            Ok(RouteEvents::Changes(Vec::new()))
        );
    }
}

/// Returns two nodes that know of each other.
pub(super) async fn two_nodes(server: &ValkeyServer, adjust: impl Fn(Settings) -> Settings) -> (Node, Node) {
    let [a, b] = ["a", "b"].map(|name| Node::new(name, adjust(settings(server, name))));
    for _ in 0..3 {
        a.send_heartbeat().await;
        b.send_heartbeat().await;
    }
    (a, b)
}

/// The answers that the clients got.
#[derive(Default)]
struct ClientLog {
    /// For each granted instance: the token of its claim and the deadline of its lease.
    granted: Mutex<HashMap<InstanceId, (ClaimToken, Millis)>>,
    duplicates: Mutex<Vec<InstanceId>>,
    released: Mutex<HashSet<InstanceId>>,
    /// Instances whose release got no answer.
    unanswered: Mutex<HashSet<InstanceId>>,
    count: AtomicU32,
}

impl ClientLog {
    fn grant(&self, token: ClaimToken, instance: &Instance) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let until = instance.lease().unwrap().deadline();
        if self.granted.lock().insert(instance.id().clone(), (token, until)).is_some() {
            self.duplicates.lock().push(instance.id().clone());
        }
    }

    /// Checks that the store agrees with all answers.
    async fn check(&self, node: &Node) {
        assert_eq!(*self.duplicates.lock(), [], "an instance was granted twice");
        let (granted, unanswered) = (self.granted.lock().clone(), self.unanswered.lock().clone());
        let released = self.released.lock().clone();
        for (id, (token, until)) in granted.iter().filter(|(id, _)| !unanswered.contains(id)) {
            let found = node.state(id).await;
            if released.contains(id) {
                assert_eq!(found, None, "a released instance is on record");
                continue;
            }
            let found = found.unwrap_or_else(|| panic!("{id} is lost"));
            match found.state() {
                State::Assigned { lease, .. } => {
                    assert!(lease.token() == *token && lease.deadline() >= *until, "{id}: {lease:?}");
                }
                other => panic!("{id} is {other:?}"),
            }
        }
    }
}

/// Claims, extends and releases instances until `stop` is set.
async fn client(number: usize, node: Arc<Node>, log: Arc<ClientLog>, stop: Arc<AtomicBool>) {
    for n in number.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let claim = node.claim();
        match node.store.claim(&claim).await {
            Ok(Claimed::Granted { instance, .. }) => {
                log.grant(claim.token, &instance);
                let id = instance.id();
                match n % 4 {
                    0 => {
                        log.unanswered.lock().insert(id.clone());
                        if node.store.release(id).await.is_ok() {
                            log.released.lock().insert(id.clone());
                            log.unanswered.lock().remove(id);
                        }
                    }
                    1 => {
                        if let Ok(longer) = node.store.extend(id, MINUTE, LEASE * 2, NO_LIMITS).await {
                            let until = longer.lease().unwrap().deadline();
                            log.granted.lock().insert(id.clone(), (claim.token, until));
                        }
                    }
                    _ => {}
                }
            }
            Ok(Claimed::Empty) | Err(StoreError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

/// Keeps instances ready, follows the routes and sends heartbeats until `stop` is set, as a node does.
async fn run_node(node: Arc<Node>, stop: Arc<AtomicBool>) {
    let (mut cursor, mut last_heartbeat) = (None::<Cursor>, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        if last_heartbeat.elapsed() > Duration::from_millis(300) {
            let _ = node.store.heartbeat(&node_info(node.name)).await;
            last_heartbeat = Instant::now();
        }
        let own = NodeId::parse(node.name).unwrap();
        if node.store.counts(&template("shop"), Some(&own)).await.is_ok_and(|counts| counts.ready < 60) {
            let id = InstanceId::random(&template("shop"));
            let new = Instance::warming(id.clone(), own, 1, Clock::System.now());
            if node.store.insert(new).await.is_ok() && node.store.offer(&id, endpoint()).await.is_err() {
                let _ = node.store.retire(&id).await;
            }
        }
        cursor = match cursor {
            None => node.store.routes().await.ok().map(|(_, cursor)| cursor),
            Some(after) => match node.store.route_events(after, Duration::ZERO).await {
                Ok(RouteEvents::Gap) => None,
                Ok(RouteEvents::Changes(changes)) => changes.last().map(|(at, _)| *at).or(cursor),
                Err(_) => cursor,
            },
        };
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Kills Valkey and restarts it. Returns, for each node, how long after the restart it was granted an instance.
async fn crash_valkey(
    server: ValkeyServer,
    loss: DataLoss,
    nodes: &[Arc<Node>],
    log: &ClientLog,
) -> (ValkeyServer, Vec<Duration>) {
    let restarting = tokio::task::spawn_blocking(move || {
        let mut server = server;
        match loss {
            DataLoss::None => server.kill(),
            DataLoss::Recent => server.restore_backup(),
            DataLoss::All => server.lose_data(),
        }
        server.restart();
        (server, Instant::now())
    });
    let (server, listens) = restarting.await.unwrap();
    let reopened = join_all(nodes.iter().map(async |node| {
        let claim = node.claim();
        loop {
            if let Claimed::Granted { instance, .. } =
                until_answered(async || node.store.claim(&claim).await).await.unwrap()
            {
                log.grant(claim.token, &instance);
                return listens.elapsed();
            }
            assert!(listens.elapsed() < MAX_WAIT, "no instance is ready after the restart");
        }
    }));
    let reopened = reopened.await;
    (server, reopened)
}

/// Crashes Valkey repeatedly under load.
async fn crash_under_load(loss: DataLoss, rounds: usize) {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| settings).await;
    let nodes = [Arc::new(a), Arc::new(b)];
    let (log, stop) = (Arc::new(ClientLog::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks: Vec<_> =
        nodes.iter().map(|node| spawn("server", run_node(node.clone(), stop.clone()))).collect();
    for number in 0..8 {
        let node = nodes[number % 2].clone();
        tasks.push(spawn("client", client(number, node, log.clone(), stop.clone())));
    }
    let mut times = Vec::new();
    let wait_for_grants = async |count: u32, at_least: Duration| {
        let begun = Instant::now();
        while log.count.load(Ordering::Relaxed) < count || begun.elapsed() < at_least {
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(begun.elapsed() < MAX_WAIT, "too few claims were granted");
        }
    };
    for _ in 0..rounds {
        let count = log.count.load(Ordering::Relaxed);
        wait_for_grants(count + 50, Duration::ZERO).await;
        if loss == DataLoss::Recent {
            server.save_backup();
            wait_for_grants(count + 100, Duration::from_secs(2)).await;
        }
        let (again, reopened) = crash_valkey(server, loss, &nodes, &log).await;
        server = again;
        times.extend(reopened);
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        timeout(MAX_WAIT, task).await.unwrap().unwrap();
    }
    for node in &nodes {
        log.check(node).await;
    }
    assert!(times.iter().all(|took| *took < MAX_RECOVERY_TIME), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_under_load_of_two_nodes_loses_and_duplicates_nothing() {
    crash_under_load(DataLoss::None, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valkey_that_lost_two_seconds_loses_and_duplicates_nothing() {
    crash_under_load(DataLoss::Recent, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valkey_that_lost_everything_loses_and_duplicates_nothing() {
    crash_under_load(DataLoss::All, 3).await;
}

fn journal() -> PathBuf {
    std::env::temp_dir().join(format!("try-it-now-claims-{}", NodeId::random()))
}

fn remove(journal: &Path) {
    std::fs::remove_file(journal).unwrap();
    let _ = std::fs::remove_file(journal.with_extension("tenure"));
}

fn with_journal(name: &'static str, settings: Settings, journal: &Path) -> Node {
    Node { store: Arc::new(ValkeyStore::open(settings, journal).unwrap()), name }
}

#[tokio::test]
async fn the_grants_of_a_node_that_died_with_valkey_are_in_its_journal() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let (a, _) = two_nodes(&server, |settings| Settings { recovery_timeout: MAX_WAIT, ..settings }).await;
    let (file, on_b) = (journal(), Settings { recovery_timeout: MAX_WAIT, ..settings(&server, "b") });
    let b = with_journal("b", on_b.clone(), &file);
    for _ in 0..3 {
        b.send_heartbeat().await;
        a.send_heartbeat().await;
    }
    let (one, other) = (a.ready().await, a.ready().await);
    server.save_backup();
    let assigned = b.granted().await;
    assert_eq!(assigned.id(), &one);
    drop(b);
    server.restore_backup();
    server.restart();
    // That Valkey has both instances as ready, and `a` has not received the grant.
    assert!(
        matches!(a.store.claim(&a.claim()).await, Err(StoreError::Unavailable(_))),
        "no claim before b has reported"
    );
    let b = with_journal("b", on_b.clone(), &file);
    assert_eq!(b.state(assigned.id()).await.as_ref(), Some(&assigned));
    assert_eq!(a.granted().await.id(), &other);
    assert_eq!(a.ready_count().await, 0);
    // The journal keeps the grant permanently.
    drop(b);
    let b = with_journal("b", on_b, &file);
    assert_eq!(b.state(assigned.id()).await.as_ref(), Some(&assigned));
    server.lose_data();
    server.restart();
    assert_eq!(b.state(assigned.id()).await.as_ref(), Some(&assigned));
    remove(&file);
}

#[tokio::test]
async fn the_instances_of_a_visitor_count_after_every_loss_of_data() {
    for loss in [DataLoss::Recent, DataLoss::All] {
        let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
        let (a, _b) = two_nodes(&server, |settings| settings).await;
        let visitor = Visitor::new("2001:db8::/64").within(2, "2001:db8::/56");
        let limits = RateLimits { hourly: 0, daily: 0, concurrent: 2 };
        let claim = || Claim { visitor: visitor.clone(), limits, ..a.claim() };
        let mut granted = Vec::new();
        for _ in 0..2 {
            a.ready().await;
            server.save_backup();
            granted.push(a.store.claim(&claim()).await.unwrap().instance().unwrap().clone());
        }
        match loss {
            DataLoss::All => server.lose_data(),
            _ => server.restore_backup(),
        }
        server.restart();
        let claimed = until_answered(async || a.store.claim(&claim()).await).await.unwrap();
        let Claimed::RateLimited(limited) = claimed else { panic!("{loss:?}: {claimed:?}") };
        assert_eq!((limited.reached, limited.limits), (ReachedLimit::Concurrent, limits));
        let once = RateLimits { hourly: 1, ..RateLimits::NONE };
        let longer = a.store.extend(granted[1].id(), MINUTE, LEASE * 9, once).await.unwrap();
        assert_eq!(longer.visitor(), Some(&visitor), "the record is as it was granted");
        let refused = a.store.extend(granted[0].id(), MINUTE, LEASE * 9, once).await;
        assert!(matches!(refused, Err(StoreError::NotExtended(_))), "{refused:?}");
        a.store.release(granted[0].id()).await.unwrap();
        a.ready().await;
        let third = a.store.claim(&claim()).await.unwrap().instance().unwrap().clone();
        let keys = |server: &ValkeyServer| server.query::<Vec<String>>(&["KEYS", "*:assigned:*"]).unwrap();
        assert_eq!(keys(&server).len(), 2, "one for each network");
        for key in keys(&server) {
            let ends_in: i64 = server.query(&["PTTL", &key]).unwrap();
            // A day more, since the wall clock by which Valkey ends keys may be set forward.
            let longest = (LEASE + MINUTE + RETENTION + MINUTE * 60 * 24).as_millis() as i64;
            assert!((longest - 60_000..=longest).contains(&ends_in), "{key} ends in {ends_in} ms");
        }
        for id in [longer.id(), third.id()] {
            a.store.release(id).await.unwrap();
        }
        assert_eq!(keys(&server), Vec::<String>::new(), "an instance that ends leaves nothing");
    }
}

#[tokio::test]
async fn without_a_report_of_every_node_no_ready_instance_stays() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let recovery_timeout = Duration::from_millis(700);
    let (a, b) = two_nodes(&server, |settings| Settings { recovery_timeout, ..settings }).await;
    let followed = {
        a.ready().await;
        let followed = b.granted().await;
        a.follow().await;
        followed
    };
    let (one, other) = (a.ready().await, a.ready().await);
    server.save_backup();
    let unseen = b.granted().await;
    assert_eq!(unseen.id(), &one);
    drop(b);
    server.restore_backup();
    let begun = Instant::now();
    server.restart();
    assert_eq!(until_answered(async || a.store.claim(&a.claim()).await).await, Ok(Claimed::Empty));
    assert!(begun.elapsed() >= recovery_timeout);
    assert_eq!((a.state(&one).await, a.state(&other).await), (None, None));
    assert_eq!(a.state(followed.id()).await.as_ref(), Some(&followed), "an assigned instance stays");
    // Instances that are made now can be claimed, and after another crash too, because b is known to be dead.
    a.store.evict_node(&node("b"), Duration::ZERO).await.unwrap();
    a.send_heartbeat().await;
    let new = a.ready().await;
    server.lose_data();
    server.restart();
    assert_eq!(a.granted().await.id(), &new, "removed instances are not restored");
    assert_eq!(a.ready_count().await, 0);
}

/// A node that stood still is removed with its instances. When it runs again, its heartbeat puts it on record before the
/// answer has it forget them; then they are not lost.
#[tokio::test]
async fn a_node_that_comes_back_restores_no_instance_that_was_removed_with_it() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| settings).await;
    let removed = b.ready().await;
    a.store.evict_node(&node("b"), Duration::ZERO).await.unwrap();
    // The heartbeat of b, of which the first store does not get the answer.
    Node::new("b", settings(&server, "b")).send_heartbeat().await;
    let checks_end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < checks_end {
        b.follow().await;
        assert_eq!(a.state(&removed).await, None, "b believes it to be lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    b.send_heartbeat().await;
    assert_eq!(a.ready_count().await, 0);
}

#[tokio::test]
async fn a_node_that_reports_late_restores_only_its_assigned_instances() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let proxy = FaultProxy::to(server.address()).await;
    let recovery_timeout = Duration::from_millis(500);
    let a = Node::new("a", Settings { recovery_timeout, ..settings(&server, "a") });
    let through_proxy = vec![Address::Tcp(proxy.address.ip().to_string(), proxy.address.port())];
    let b = Node::new("b", Settings { recovery_timeout, addresses: through_proxy, ..settings(&server, "b") });
    for _ in 0..3 {
        a.send_heartbeat().await;
        b.send_heartbeat().await;
    }
    let (on_a, on_b) = (a.ready().await, b.ready().await);
    let (own, other) = (b.granted().await, b.granted().await);
    assert_eq!((own.id(), other.id()), (&on_b, &on_a));
    a.ready().await;
    let released_later = b.granted().await;
    let returned = b.store.release(released_later.id()).await.unwrap().0;
    let waiting = b.ready().await;
    proxy.set(Fault::Refuse);
    proxy.reset_connections();
    server.lose_data();
    server.restart();
    assert_eq!(until_answered(async || a.store.claim(&a.claim()).await).await, Ok(Claimed::Empty));
    let new = a.ready().await;
    assert!(matches!(b.store.get(&on_b).await, Err(StoreError::Unavailable(_))));
    proxy.set(Fault::None);
    assert_eq!(b.state(&on_b).await.as_ref(), Some(&own));
    assert_eq!(a.state(&on_a).await.as_ref(), Some(&other));
    assert_eq!((a.state(&waiting).await, a.state(returned.id()).await), (None, None));
    for _ in 0..2 {
        b.send_heartbeat().await;
        a.send_heartbeat().await;
    }
    assert_eq!(b.granted().await.id(), &new);
    assert_eq!(a.store.claim(&a.claim()).await, Ok(Claimed::Empty));
    // Both nodes see the instances.
    let (routes, _) = a.store.routes().await.unwrap();
    assert_eq!(routes.len(), 3);
}

#[tokio::test]
async fn an_instance_that_failed_or_was_retired_during_an_outage_is_never_claimed() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| settings).await;
    let (dead, unwanted, fine) = (a.ready().await, a.ready().await, a.ready().await);
    server.kill();
    assert!(matches!(a.store.fail(&dead).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(a.store.retire(&unwanted).await, Err(StoreError::Unavailable(_))));
    server.restart();
    assert_eq!(b.granted().await.id(), &fine);
    assert_eq!(b.store.claim(&b.claim()).await, Ok(Claimed::Empty));
    assert_eq!(a.store.retire(&unwanted).await, Err(StoreError::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_crash_during_a_recovery_restarts_it() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| settings).await;
    let mut ids = Vec::new();
    for _ in 0..300 {
        ids.push(a.ready().await);
        ids.push(b.ready().await);
    }
    let mut assigned = Vec::new();
    for _ in 0..200 {
        assigned.push(a.granted().await);
        assigned.push(b.granted().await);
    }
    server.lose_data();
    for _ in 0..6 {
        server.restart();
        // As soon as the recovery has written something, or has ended.
        crate::support::valkey_server::wait_until("the recovery has begun", || {
            server.query::<usize>(&["DBSIZE"]).is_ok_and(|keys| keys > 3)
        });
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server
        })
        .await
        .unwrap();
    }
    server.restart();
    for (node, it) in assigned.iter().enumerate().map(|(n, it)| (if n % 2 == 0 { &b } else { &a }, it)) {
        assert_eq!(node.state(it.id()).await.as_ref(), Some(it));
    }
    // The nodes must also learn of each other again.
    for _ in 0..2 {
        a.send_heartbeat().await;
        b.send_heartbeat().await;
    }
    let mut all: HashSet<InstanceId> = assigned.iter().map(|it| it.id().clone()).collect();
    while let Claimed::Granted { instance, .. } =
        until_answered(async || a.store.claim(&a.claim()).await).await.unwrap()
    {
        assert!(all.insert(instance.id().clone()), "an instance was granted twice");
    }
    assert_eq!(all.len(), ids.len());
}

#[tokio::test]
async fn a_valkey_that_is_flushed_while_it_runs_gets_all_records_back() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| settings).await;
    let waiting = a.ready().await;
    b.ready().await;
    let assigned = b.granted().await;
    for _ in 0..3 {
        server.query::<()>(&["FLUSHALL"]).unwrap();
        assert_eq!(b.state(assigned.id()).await.as_ref(), Some(&assigned));
        assert_eq!(a.state(&waiting).await.unwrap().state().name(), "ready");
    }
    let roster = a.store.nodes().await.unwrap();
    assert_eq!(
        roster.iter().map(|member| member.info.id.clone()).collect::<Vec<_>>(),
        [node("a"), node("b")]
    );
}

/// Nothing is lost in this case, so no node has to report.
#[tokio::test]
async fn a_valkey_that_only_lost_its_scripts_needs_no_recovery() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| settings).await;
    let waiting = a.ready().await;
    let term = || server.query::<String>(&["GET", "{try-it-now}:tenure"]).unwrap();
    let before = term();
    server.query::<()>(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(b.granted().await.id(), &waiting);
    assert_eq!(term(), before);
}

#[tokio::test]
async fn during_a_recovery_heartbeats_return_the_last_known_members_and_no_node_is_evicted() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (a, b) = two_nodes(&server, |settings| Settings { recovery_timeout: MAX_WAIT, ..settings }).await;
    let before = a.store.heartbeat(&node_info("a")).await.unwrap();
    assert_eq!(before.nodes.len(), 2);
    drop(b);
    server.query::<()>(&["FLUSHALL"]).unwrap();
    assert!(matches!(
        a.store.get(&InstanceId::random(&template("shop"))).await,
        Err(StoreError::Unavailable(_))
    ));
    let during = a.store.heartbeat(&node_info("a")).await.unwrap();
    let names = |roster: &try_it_now::store::HeartbeatReply| {
        roster.nodes.iter().map(|member| member.info.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!((names(&during), &during.secret), (names(&before), &before.secret));
    assert!(matches!(a.store.evict_node(&node("b"), Duration::ZERO).await, Err(StoreError::Unavailable(_))));
    let b = Node::new("b", settings(&server, "b"));
    b.follow().await;
    assert_eq!(a.store.nodes().await.unwrap().len(), 2);
    assert_eq!(a.store.heartbeat(&node_info("a")).await.unwrap().secret, before.secret);
}

/// Else the node that restores the ready instances would not know which nodes must report.
#[tokio::test]
async fn a_new_node_gets_instances_of_another_node_once_that_node_knows_of_it() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let proxy = FaultProxy::to(server.address()).await;
    let through_proxy = vec![Address::Tcp(proxy.address.ip().to_string(), proxy.address.port())];
    let a = Node::new("a", Settings { addresses: through_proxy, ..settings(&server, "a") });
    let b = Node::new("b", settings(&server, "b"));
    a.send_heartbeat().await;
    let on_a = a.ready().await;
    proxy.set(Fault::Refuse);
    proxy.reset_connections();
    b.send_heartbeat().await;
    assert_eq!(b.store.claim(&b.claim()).await, Ok(Claimed::Empty));
    let own = b.ready().await;
    assert_eq!(b.granted().await.id(), &own);
    proxy.set(Fault::None);
    let begun = Instant::now();
    while b.store.claim(&b.claim()).await == Ok(Claimed::Empty) {
        assert!(begun.elapsed() < MAX_WAIT, "the node is announced without a heartbeat");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(a.state(&on_a).await.unwrap().state().name(), "assigned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_server_comes_back_empty_gets_all_records_back() {
    let Some(mut cluster) = ValkeyCluster::start() else { return };
    let addresses: Vec<Address> = cluster.addresses().into_iter().map(tcp).collect();
    let prefix = own_prefix();
    let node_of = |name: &'static str| {
        let (addresses, prefix) = (addresses.clone(), prefix.clone());
        Node::new(
            name,
            Settings { addresses, prefix, mode: Mode::Cluster, node: node(name), ..Settings::default() },
        )
    };
    let (a, b) = (node_of("a"), node_of("b"));
    for _ in 0..3 {
        a.send_heartbeat().await;
        b.send_heartbeat().await;
    }
    let waiting = a.ready().await;
    b.ready().await;
    let assigned = b.granted().await;
    for _ in 0..2 {
        let owner = cluster.owner(&prefix);
        owner.kill();
        owner.restart();
        assert_eq!(b.state(assigned.id()).await.as_ref(), Some(&assigned));
        assert_eq!(a.state(&waiting).await.unwrap().state().name(), "ready");
    }
    assert_eq!(a.granted().await.id(), &waiting);
    assert_eq!(b.store.claim(&b.claim()).await, Ok(Claimed::Empty));
}
