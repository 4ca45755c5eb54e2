//! Valkey comes back with an older past or with none, while two servers hand out each other's instances: nothing that was
//! handed out is handed out again, and nothing is forgotten.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use try_it_now::clock::{Clock, Millis};
use try_it_now::instance::{ClaimToken, Instance, InstanceId, NodeId, State};
use try_it_now::store::valkey::{Address, Mode, Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Cursor, RouteEvents, Store, StoreError};
use try_it_now::telemetry::task::spawn;

use super::{own_prefix, tcp};
use crate::suites::store::fixture::{MINUTE, node, template, wish};
use crate::suites::store::nodes::card;
use crate::support::fault_proxy::{Fault, Proxy};
use crate::support::valkey_server::{Cluster, Keeps, PATIENCE, Server};

/// How long claims may stay closed when all servers live.
const REOPENED: Duration = Duration::from_secs(3);

const LEASE: Duration = Duration::from_secs(900);

/// What is left of a Valkey's past.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Past {
    /// What it has written.
    Written,
    /// What it had written some time ago.
    Old,
    Nothing,
}

/// A server as the store sees it: one that beats, fills its pool, and hands out.
struct Node {
    store: Arc<ValkeyStore>,
    name: &'static str,
}

fn settings(server: &Server, name: &str) -> Settings {
    Settings { addresses: vec![tcp(server.address())], node: node(name), ..Settings::default() }
}

fn endpoint() -> try_it_now::instance::Endpoint {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let [_, a, b, c] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    ([10, a, b, c], 4000).into()
}

/// Asks until there is an answer.
async fn sure<T>(mut ask: impl AsyncFnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let asking = async {
        loop {
            match ask().await {
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                answer => return answer,
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("the store recovers")
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

    async fn heartbeat(&self) {
        self.store.heartbeat(&card(self.name)).await.unwrap();
    }

    fn claim(&self) -> Claim {
        Claim { node: node(self.name), ttl: LEASE, ..wish() }
    }

    /// One of the other's.
    async fn granted(&self) -> Instance {
        let claimed = sure(async || self.store.claim(&self.claim()).await).await.unwrap();
        claimed.instance().unwrap_or_else(|| panic!("{claimed:?}")).clone()
    }

    async fn state(&self, id: &InstanceId) -> Option<Instance> {
        sure(async || self.store.get(id).await).await.unwrap()
    }

    async fn ready_count(&self) -> usize {
        sure(async || self.store.counts(&template("shop"), None).await).await.unwrap().ready
    }

    /// Follows the routes to their end, as the proxy of a server does.
    async fn follow(&self) {
        let (_, cursor) = self.store.routes().await.unwrap();
        assert_eq!(
            self.store.route_events(cursor, Duration::ZERO).await,
            Ok(RouteEvents::Changes(Vec::new()))
        );
    }
}

/// Two that know each other.
async fn pair(server: &Server, adjust: impl Fn(Settings) -> Settings) -> (Node, Node) {
    let [a, b] = ["a", "b"].map(|name| Node::new(name, adjust(settings(server, name))));
    for _ in 0..3 {
        a.heartbeat().await;
        b.heartbeat().await;
    }
    (a, b)
}

/// What the clients were told.
#[derive(Default)]
struct Told {
    /// Which claim got which instance, and until when.
    granted: Mutex<HashMap<InstanceId, (ClaimToken, Millis)>>,
    doubled: Mutex<Vec<InstanceId>>,
    released: Mutex<HashSet<InstanceId>>,
    /// ApiRequest to be released, without an answer.
    unsure: Mutex<HashSet<InstanceId>>,
    count: AtomicU32,
}

impl Told {
    fn grant(&self, token: ClaimToken, instance: &Instance) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let until = instance.lease().unwrap().deadline();
        if self.granted.lock().insert(instance.id().clone(), (token, until)).is_some() {
            self.doubled.lock().push(instance.id().clone());
        }
    }

    /// Whether the store agrees with all of it.
    async fn is_true(&self, node: &Node) {
        assert_eq!(*self.doubled.lock(), [], "given to two");
        let (granted, unsure) = (self.granted.lock().clone(), self.unsure.lock().clone());
        let released = self.released.lock().clone();
        for (id, (token, until)) in granted.iter().filter(|(id, _)| !unsure.contains(id)) {
            let found = node.state(id).await;
            if released.contains(id) {
                assert_eq!(found, None, "it was given back");
                continue;
            }
            let found = found.unwrap_or_else(|| panic!("{id} is forgotten"));
            match found.life() {
                State::Assigned { lease, .. } => {
                    assert!(lease.token() == *token && lease.deadline() >= *until, "{id}: {lease:?}");
                }
                other => panic!("{id} is {other:?}"),
            }
        }
    }
}

/// Clients that claim, extend and give back until they are told to stop.
async fn client(number: usize, node: Arc<Node>, told: Arc<Told>, stop: Arc<AtomicBool>) {
    for n in number.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let claim = node.claim();
        match node.store.claim(&claim).await {
            Ok(Claimed::Granted { instance, .. }) => {
                told.grant(claim.token, &instance);
                let id = instance.id();
                match n % 4 {
                    0 => {
                        told.unsure.lock().insert(id.clone());
                        if node.store.release(id).await.is_ok() {
                            told.released.lock().insert(id.clone());
                            told.unsure.lock().remove(id);
                        }
                    }
                    1 => {
                        if let Ok(longer) = node.store.extend(id, MINUTE, LEASE * 2).await {
                            let until = longer.lease().unwrap().deadline();
                            told.granted.lock().insert(id.clone(), (claim.token, until));
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

/// Keeps some ready, whatever becomes of them, follows and beats, as a server does.
async fn serve(node: Arc<Node>, stop: Arc<AtomicBool>) {
    let (mut cursor, mut beat) = (None::<Cursor>, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        if beat.elapsed() > Duration::from_millis(300) {
            let _ = node.store.heartbeat(&card(node.name)).await;
            beat = Instant::now();
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

/// Kills Valkey and starts it again. Returns how long after it listened each of the nodes handed something out.
async fn crash(server: Server, past: Past, nodes: &[Arc<Node>], told: &Told) -> (Server, Vec<Duration>) {
    let restarting = tokio::task::spawn_blocking(move || {
        let mut server = server;
        match past {
            Past::Written => server.kill(),
            Past::Old => server.fall_back(),
            Past::Nothing => server.forget(),
        }
        server.start_again();
        (server, Instant::now())
    });
    let (server, listens) = restarting.await.unwrap();
    let reopened = join_all(nodes.iter().map(async |node| {
        let claim = node.claim();
        loop {
            if let Claimed::Granted { instance, .. } =
                sure(async || node.store.claim(&claim).await).await.unwrap()
            {
                told.grant(claim.token, &instance);
                return listens.elapsed();
            }
            assert!(listens.elapsed() < PATIENCE, "nothing is ready any more");
        }
    }));
    let reopened = reopened.await;
    (server, reopened)
}

/// Under load, again and again.
async fn crashes(past: Past, rounds: usize) {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
    let (a, b) = pair(&server, |settings| settings).await;
    let nodes = [Arc::new(a), Arc::new(b)];
    let (told, stop) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks: Vec<_> =
        nodes.iter().map(|node| spawn("server", serve(node.clone(), stop.clone()))).collect();
    for number in 0..8 {
        let node = nodes[number % 2].clone();
        tasks.push(spawn("client", client(number, node, told.clone(), stop.clone())));
    }
    let mut times = Vec::new();
    let more_than = async |count: u32, at_least: Duration| {
        let begun = Instant::now();
        while told.count.load(Ordering::Relaxed) < count || begun.elapsed() < at_least {
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(begun.elapsed() < PATIENCE, "claims are granted");
        }
    };
    for _ in 0..rounds {
        let count = told.count.load(Ordering::Relaxed);
        more_than(count + 50, Duration::ZERO).await;
        if past == Past::Old {
            server.keep_copy();
            more_than(count + 100, Duration::from_secs(2)).await;
        }
        let (again, reopened) = crash(server, past, &nodes, &told).await;
        server = again;
        times.extend(reopened);
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    for node in &nodes {
        told.is_true(node).await;
    }
    assert!(times.iter().all(|took| *took < REOPENED), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_under_load_of_two_servers_loses_and_doubles_nothing() {
    crashes(Past::Written, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_of_two_seconds_ago_loses_and_doubles_nothing() {
    crashes(Past::Old, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_valkey_loses_and_doubles_nothing() {
    crashes(Past::Nothing, 3).await;
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
async fn what_a_server_handed_out_before_it_died_with_valkey_is_in_its_journal() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
    let (a, _) = pair(&server, |settings| Settings { patience: PATIENCE, ..settings }).await;
    let (file, of_b) = (journal(), Settings { patience: PATIENCE, ..settings(&server, "b") });
    let b = with_journal("b", of_b.clone(), &file);
    for _ in 0..3 {
        b.heartbeat().await;
        a.heartbeat().await;
    }
    let (one, other) = (a.ready().await, a.ready().await);
    server.keep_copy();
    let had = b.granted().await;
    assert_eq!(had.id(), &one);
    drop(b);
    server.fall_back();
    server.start_again();
    // As far as that Valkey knows both are ready, and `a` has not heard otherwise.
    assert!(
        matches!(a.store.claim(&a.claim()).await, Err(StoreError::Unavailable(_))),
        "not before b has told"
    );
    let b = with_journal("b", of_b.clone(), &file);
    assert_eq!(b.state(had.id()).await.as_ref(), Some(&had));
    assert_eq!(a.granted().await.id(), &other);
    assert_eq!(a.ready_count().await, 0);
    // And once more: what is in the journal is known for good.
    drop(b);
    let b = with_journal("b", of_b, &file);
    assert_eq!(b.state(had.id()).await.as_ref(), Some(&had));
    server.forget();
    server.start_again();
    assert_eq!(b.state(had.id()).await.as_ref(), Some(&had));
    remove(&file);
}

#[tokio::test]
async fn without_a_server_that_was_there_nothing_that_is_ready_stays() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
    let patience = Duration::from_millis(700);
    let (a, b) = pair(&server, |settings| Settings { patience, ..settings }).await;
    let followed = {
        a.ready().await;
        let followed = b.granted().await;
        a.follow().await;
        followed
    };
    let (one, other) = (a.ready().await, a.ready().await);
    server.keep_copy();
    let unheard = b.granted().await;
    assert_eq!(unheard.id(), &one);
    drop(b);
    server.fall_back();
    let begun = Instant::now();
    server.start_again();
    assert_eq!(sure(async || a.store.claim(&a.claim()).await).await, Ok(Claimed::Empty));
    assert!(begun.elapsed() >= patience);
    assert_eq!((a.state(&one).await, a.state(&other).await), (None, None));
    assert_eq!(a.state(followed.id()).await.as_ref(), Some(&followed), "what visitors have stays");
    // What is made from now on is handed out, and after another crash too, now that b is known to be dead.
    a.store.evict_node(&node("b"), Duration::ZERO).await.unwrap();
    a.heartbeat().await;
    let new = a.ready().await;
    server.forget();
    server.start_again();
    assert_eq!(a.granted().await.id(), &new, "those that were removed are not told of again");
    assert_eq!(a.ready_count().await, 0);
}

#[tokio::test]
async fn a_server_that_comes_late_tells_what_visitors_have_and_nothing_else() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
    let link = Proxy::to(server.address()).await;
    let patience = Duration::from_millis(500);
    let a = Node::new("a", Settings { patience, ..settings(&server, "a") });
    let by_link = vec![Address::Tcp(link.address.ip().to_string(), link.address.port())];
    let b = Node::new("b", Settings { patience, addresses: by_link, ..settings(&server, "b") });
    for _ in 0..3 {
        a.heartbeat().await;
        b.heartbeat().await;
    }
    let (of_a, of_b) = (a.ready().await, b.ready().await);
    let (own, other) = (b.granted().await, b.granted().await);
    assert_eq!((own.id(), other.id()), (&of_b, &of_a));
    a.ready().await;
    let kept = b.granted().await;
    let returned = b.store.release(kept.id()).await.unwrap().0;
    let waits = b.ready().await;
    link.set(Fault::Refused);
    link.cut();
    server.forget();
    server.start_again();
    assert_eq!(sure(async || a.store.claim(&a.claim()).await).await, Ok(Claimed::Empty));
    let new = a.ready().await;
    assert!(matches!(b.store.get(&of_b).await, Err(StoreError::Unavailable(_))));
    link.set(Fault::Whole);
    assert_eq!(b.state(&of_b).await.as_ref(), Some(&own));
    assert_eq!(a.state(&of_a).await.as_ref(), Some(&other));
    assert_eq!((a.state(&waits).await, a.state(returned.id()).await), (None, None));
    for _ in 0..2 {
        b.heartbeat().await;
        a.heartbeat().await;
    }
    assert_eq!(b.granted().await.id(), &new);
    assert_eq!(a.store.claim(&a.claim()).await, Ok(Claimed::Empty));
    // Both are told of it.
    let (routes, _) = a.store.routes().await.unwrap();
    assert_eq!(routes.len(), 3);
}

#[tokio::test]
async fn what_died_or_was_to_go_while_valkey_was_away_is_handed_out_to_nobody() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
    let (a, b) = pair(&server, |settings| settings).await;
    let (dead, unwanted, fine) = (a.ready().await, a.ready().await, a.ready().await);
    server.kill();
    assert!(matches!(a.store.fail(&dead).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(a.store.retire(&unwanted).await, Err(StoreError::Unavailable(_))));
    server.start_again();
    assert_eq!(b.granted().await.id(), &fine);
    assert_eq!(b.store.claim(&b.claim()).await, Ok(Claimed::Empty));
    assert_eq!(a.store.retire(&unwanted).await, Err(StoreError::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_crash_in_the_middle_of_a_recovery_begins_it_anew() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
    let (a, b) = pair(&server, |settings| settings).await;
    let mut ids = Vec::new();
    for _ in 0..300 {
        ids.push(a.ready().await);
        ids.push(b.ready().await);
    }
    let mut had = Vec::new();
    for _ in 0..200 {
        had.push(a.granted().await);
        had.push(b.granted().await);
    }
    server.forget();
    for _ in 0..6 {
        server.start_again();
        // As soon as something of a recovery shows, or it is over.
        crate::support::valkey_server::wait_until("the recovery begins", || {
            server.ask::<usize>(&["DBSIZE"]).is_ok_and(|keys| keys > 3)
        });
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server
        })
        .await
        .unwrap();
    }
    server.start_again();
    for (node, it) in had.iter().enumerate().map(|(n, it)| (if n % 2 == 0 { &b } else { &a }, it)) {
        assert_eq!(node.state(it.id()).await.as_ref(), Some(it));
    }
    // It has to be told of again, too.
    for _ in 0..2 {
        a.heartbeat().await;
        b.heartbeat().await;
    }
    let mut all: HashSet<InstanceId> = had.iter().map(|it| it.id().clone()).collect();
    while let Claimed::Granted { instance, .. } =
        sure(async || a.store.claim(&a.claim()).await).await.unwrap()
    {
        assert!(all.insert(instance.id().clone()), "given to two");
    }
    assert_eq!(all.len(), ids.len());
}

#[tokio::test]
async fn a_store_that_is_emptied_while_it_runs_gets_all_back() {
    let Some(server) = Server::start(Keeps::Nothing, &[]) else { return };
    let (a, b) = pair(&server, |settings| settings).await;
    let waits = a.ready().await;
    b.ready().await;
    let had = b.granted().await;
    for _ in 0..3 {
        server.ask::<()>(&["FLUSHALL"]).unwrap();
        assert_eq!(b.state(had.id()).await.as_ref(), Some(&had));
        assert_eq!(a.state(&waits).await.unwrap().life().name(), "ready");
    }
    let roster = a.store.nodes().await.unwrap();
    assert_eq!(
        roster.iter().map(|member| member.card.id.clone()).collect::<Vec<_>>(),
        [node("a"), node("b")]
    );
}

/// Nothing is lost then, so nobody need tell anything.
#[tokio::test]
async fn a_valkey_that_only_forgot_the_scripts_is_told_them_again() {
    let Some(server) = Server::start(Keeps::Nothing, &[]) else { return };
    let (a, b) = pair(&server, |settings| settings).await;
    let waits = a.ready().await;
    let tenure = || server.ask::<String>(&["GET", "{try-it-now}:tenure"]).unwrap();
    let before = tenure();
    server.ask::<()>(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(b.granted().await.id(), &waits);
    assert_eq!(tenure(), before);
}

#[tokio::test]
async fn while_the_store_is_recovered_beats_are_answered_with_what_was_heard_last_and_nobody_is_buried() {
    let Some(server) = Server::start(Keeps::Nothing, &[]) else { return };
    let (a, b) = pair(&server, |settings| Settings { patience: PATIENCE, ..settings }).await;
    let before = a.store.heartbeat(&card("a")).await.unwrap();
    assert_eq!(before.members.len(), 2);
    drop(b);
    server.ask::<()>(&["FLUSHALL"]).unwrap();
    assert!(matches!(
        a.store.get(&InstanceId::random(&template("shop"))).await,
        Err(StoreError::Unavailable(_))
    ));
    let told = a.store.heartbeat(&card("a")).await.unwrap();
    let names = |roster: &try_it_now::store::Membership| {
        roster.members.iter().map(|member| member.card.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!((names(&told), &told.secret), (names(&before), &before.secret));
    assert!(matches!(a.store.evict_node(&node("b"), Duration::ZERO).await, Err(StoreError::Unavailable(_))));
    let b = Node::new("b", settings(&server, "b"));
    b.follow().await;
    assert_eq!(a.store.nodes().await.unwrap().len(), 2);
    assert_eq!(a.store.heartbeat(&card("a")).await.unwrap().secret, before.secret);
}

/// Else whoever vouches for what is ready would not know whom to wait for.
#[tokio::test]
async fn a_node_gets_anothers_instance_once_the_other_knows_that_it_is_there() {
    let Some(server) = Server::start(Keeps::Nothing, &[]) else { return };
    let link = Proxy::to(server.address()).await;
    let by_link = vec![Address::Tcp(link.address.ip().to_string(), link.address.port())];
    let a = Node::new("a", Settings { addresses: by_link, ..settings(&server, "a") });
    let b = Node::new("b", settings(&server, "b"));
    a.heartbeat().await;
    let of_a = a.ready().await;
    link.set(Fault::Refused);
    link.cut();
    b.heartbeat().await;
    assert_eq!(b.store.claim(&b.claim()).await, Ok(Claimed::Empty));
    let own = b.ready().await;
    assert_eq!(b.granted().await.id(), &own);
    link.set(Fault::Whole);
    let begun = Instant::now();
    while b.store.claim(&b.claim()).await == Ok(Claimed::Empty) {
        assert!(begun.elapsed() < PATIENCE, "it is told of without a beat");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(a.state(&of_a).await.unwrap().life().name(), "assigned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_server_comes_back_empty_gets_all_back() {
    let Some(mut cluster) = Cluster::start() else { return };
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
        a.heartbeat().await;
        b.heartbeat().await;
    }
    let waits = a.ready().await;
    b.ready().await;
    let had = b.granted().await;
    for _ in 0..2 {
        let owner = cluster.owner(&prefix);
        owner.kill();
        owner.start_again();
        assert_eq!(b.state(had.id()).await.as_ref(), Some(&had));
        assert_eq!(a.state(&waits).await.unwrap().life().name(), "ready");
    }
    assert_eq!(a.granted().await.id(), &waits);
    assert_eq!(b.store.claim(&b.claim()).await, Ok(Claimed::Empty));
}
