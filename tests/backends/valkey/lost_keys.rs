//! Single keys of a running Valkey are lost or damaged, as an eviction or another program does it, while two nodes use
//! them: the nodes restore them, no instance is granted twice, and none is lost or forgotten.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use try_it_now::clock::Clock;
use try_it_now::instance::{ClaimToken, Instance, InstanceId, RateLimits, State, Visitor};
use try_it_now::store::{Claim, Claimed, Cursor, RouteEvents, Store, StoreError};
use try_it_now::telemetry::task::spawn;

use super::recovery::{Node, endpoint, settings, two_nodes, until_answered};
use crate::suites::store::fixture::{node, template};
use crate::suites::store::nodes::node_info;
use crate::support::valkey_server::{MAX_WAIT, Persistence, ValkeyServer};

/// The longest time until damaged data is whole again.
const MAX_REPAIR_TIME: Duration = Duration::from_secs(10);

/// Ready instances of each node.
const POOL: usize = 2;

const LIMITS: RateLimits = RateLimits { hourly: 100_000, daily: 100_000, concurrent: 100_000 };

/// Returns what is wrong with the data, by a way of its own: all keys are read and compared, in one moment.
const ORACLE: &str = r"
local P, found = ARGV[1], {}
local expected, actual = {}, {}
local function add(where, key, member, by)
  where[key .. ' ' .. member] = (where[key .. ' ' .. member] or 0) + by
end
local last = tonumber(redis.call('GET', P .. ':events') or '0')
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, rest = key:sub(#P + 2):match('^([^:]+):?(.*)$')
  if kind == 'record' then
    local f = {}
    for field in (redis.call('GET', key) .. '|'):gmatch('([^|]*)|') do f[#f + 1] = field end
    local state, of, t = f[2], f[3], rest:match('^(.*)%-')
    add(expected, 'node:' .. of, rest, 1)
    if state ~= 'expired' then add(expected, 'counts', state .. ':' .. t .. ':' .. of, 1) end
    if state == 'ready' then
      add(expected, 'ready:' .. t, rest, 1)
      add(expected, 'ready:' .. t .. ':' .. of, rest, 1)
    elseif state == 'assigned' or state == 'expired' then
      add(expected, 'due', rest, 1)
      if not redis.call('GET', P .. ':token:' .. t .. ':' .. f[7]) then found[#found + 1] = 'token of ' .. rest end
      if state == 'assigned' and f[11] ~= '' then add(expected, 'assigned:' .. t .. ':' .. f[11], rest, 1) end
    end
  elseif kind == 'ready' or kind == 'due' or kind == 'assigned' then
    for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do add(actual, key:sub(#P + 2), id, 1) end
  elseif kind == 'node' then
    for _, id in ipairs(redis.call('SMEMBERS', key)) do add(actual, key:sub(#P + 2), id, 1) end
  elseif kind == 'counts' then
    local counts = redis.call('HGETALL', key)
    for n = 1, #counts, 2 do add(actual, 'counts', counts[n], tonumber(counts[n + 1])) end
  end
end
for what, count in pairs(expected) do
  if actual[what] ~= count then found[#found + 1] = what .. ': ' .. tostring(actual[what]) .. ', not ' .. count end
end
for what in pairs(actual) do
  if not expected[what] then found[#found + 1] = 'stray ' .. what end
end
if not redis.call('GET', P .. ':tenure') then found[#found + 1] = 'no term' end
for _, name in ipairs({'a', 'b'}) do
  for _, key in ipairs({'nodes', 'joined', 'informed'}) do
    if redis.call('HEXISTS', P .. ':' .. key, name) == 0 then found[#found + 1] = name .. ' not in ' .. key end
  end
end
return found";

/// What clients and nodes know: each instance granted and not released, and what would have been ended wrongly.
#[derive(Default)]
struct Log {
    granted: Mutex<HashMap<InstanceId, ClaimToken>>,
    ever_granted: Mutex<BTreeSet<String>>,
    faults: Mutex<Vec<String>>,
}

impl Log {
    fn grant(&self, token: ClaimToken, instance: &Instance) {
        self.granted.lock().insert(instance.id().clone(), token);
        if !self.ever_granted.lock().insert(instance.id().to_string()) {
            self.faults.lock().push(format!("{} was granted twice", instance.id()));
        }
    }
}

/// A server with two nodes that fill their pools, follow the routes and compare what runs with the list, as a server
/// does.
struct Running {
    server: ValkeyServer,
    nodes: Vec<Arc<Node>>,
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    async fn start(options: &[&str]) -> Option<Self> {
        let server = ValkeyServer::start(Persistence::None, options)?;
        let (a, b) = two_nodes(&server, |settings| settings).await;
        // So that there are keys about a node that never returns.
        a.store.heartbeat(&node_info("c")).await.unwrap();
        a.store.evict_node(&node("c"), Duration::ZERO).await.unwrap();
        // Both learn that it is gone: a recovery waits for each node on the last list of any other, and would bring it
        // back.
        for node in [&a, &b] {
            node.send_heartbeat().await;
        }
        let nodes = vec![Arc::new(a), Arc::new(b)];
        let (log, stop) = (Arc::new(Log::default()), Arc::new(AtomicBool::new(false)));
        let tasks = nodes.iter().map(|node| spawn("node", run_node(node.clone(), log.clone(), stop.clone())));
        let tasks = tasks.collect();
        let running = Self { server, nodes, log, stop, tasks };
        for number in 0..4 {
            running.claim(number % 2, "at the start").await;
        }
        running.wait_until_whole("at the start").await;
        Some(running)
    }

    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.server.query(&["KEYS", "{try-it-now}*"]).unwrap();
        keys.sort();
        keys
    }

    /// Claims an instance on a node until one is granted.
    async fn claim(&self, number: usize, when: &str) {
        self.claim_within(MAX_REPAIR_TIME, number, when).await;
    }

    async fn claim_within(&self, limit: Duration, number: usize, when: &str) {
        let node = &self.nodes[number];
        let claim = Claim { visitor: Visitor::new("192.0.2.1"), limits: LIMITS, ..node.claim() };
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < limit {
            match node.store.claim(&claim).await {
                Ok(Claimed::Granted { instance, .. }) => {
                    let _ = node.store.confirm(&[instance.id().clone()]).await;
                    return self.log.grant(claim.token, &instance);
                }
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{when}: no claim was granted: {last}; {:?}", self.flaws());
    }

    fn flaws(&self) -> Vec<String> {
        self.server
            .query(&["EVAL", ORACLE, "0", "{try-it-now}"])
            .unwrap_or_else(|error| vec![error.to_string()])
    }

    /// Waits until the data is whole, and what the clients were granted is as their answers said.
    async fn wait_until_whole(&self, when: &str) {
        let begun = Instant::now();
        loop {
            let mut flaws = self.flaws();
            let granted = self.log.granted.lock().clone();
            for (id, token) in granted {
                match self.nodes[0].store.get(&id).await {
                    Ok(Some(found)) => match found.state() {
                        State::Assigned { lease, .. } if lease.token() == token => {}
                        other => flaws.push(format!("{id} is {other:?}")),
                    },
                    other => flaws.push(format!("{id}: {other:?}")),
                }
            }
            if flaws.is_empty() {
                break;
            }
            assert!(begun.elapsed() < MAX_REPAIR_TIME, "{when}: {flaws:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(*self.log.faults.lock(), Vec::<String>::new(), "{when}");
    }

    /// Damages the data, and checks that all is well a short time later. Releases as many instances as are claimed.
    async fn survive(&self, when: &str, damage: impl FnOnce(&ValkeyServer)) {
        let begun = Instant::now();
        damage(&self.server);
        self.claim(0, when).await;
        self.wait_until_whole(when).await;
        self.claim(1, when).await;
        for _ in 0..2 {
            let id = self.log.granted.lock().keys().next().cloned().expect("some are granted");
            self.log.granted.lock().remove(&id);
            // The answer of a release that was done may be what is lost.
            let released = until_answered(async || self.nodes[0].store.release(&id).await).await;
            assert!(matches!(released, Ok(_) | Err(StoreError::Unknown)), "{when}: {released:?}");
        }
        self.wait_until_whole(when).await;
        // Shown where a test fails, or takes too long.
        let _ = writeln!(io::stdout(), "{when}: survived after {:?}", begun.elapsed());
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            timeout(MAX_WAIT, task).await.unwrap().unwrap();
        }
    }
}

/// Does what a server does with its store until `stop` is set.
async fn run_node(node_of: Arc<Node>, log: Arc<Log>, stop: Arc<AtomicBool>) {
    let own = node(node_of.name);
    let (store, mut cursor, mut last_heartbeat) = (&node_of.store, None::<Cursor>, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        if last_heartbeat.elapsed() > Duration::from_millis(300) {
            let _ = store.heartbeat(&node_info(node_of.name)).await;
            last_heartbeat = Instant::now();
        }
        if store.counts(&template("shop"), Some(&own)).await.is_ok_and(|counts| counts.ready < POOL) {
            let id = InstanceId::random(&template("shop"));
            let new = Instance::warming(id.clone(), own.clone(), 1, Clock::System.now());
            // A step without an answer may have been done. To give the instance up then would end one that a visitor
            // may have by now.
            while let Err(StoreError::Unavailable(_)) = store.insert(new.clone()).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let at = endpoint();
            while let Err(StoreError::Unavailable(_)) = store.offer(&id, at).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let granted: Vec<InstanceId> = log.granted.lock().keys().cloned().collect();
        let listed = async {
            let mut all = BTreeSet::new();
            for name in ["a", "b"] {
                // Only the list of the own node decides what runs on.
                let of = if name == node_of.name { store.list(&own).await.ok()? } else { Vec::new() };
                all.extend(of.into_iter().map(|record| record.id().clone()));
            }
            Some(all)
        };
        if let Some(listed) = listed.await {
            for id in granted {
                let is_own = matches!(store.get(&id).await, Ok(Some(found)) if found.node() == &own);
                if is_own && !listed.contains(&id) && log.granted.lock().contains_key(&id) {
                    log.faults.lock().push(format!("{id} runs and is not listed on {}", node_of.name));
                }
            }
        }
        // The garbage collection ends what has expired; nothing expires here before its lease ends.
        let _ = store.sweep(100).await;
        cursor = match cursor {
            None => store.routes().await.ok().map(|(_, cursor)| cursor),
            Some(after) => match store.route_events(after, Duration::ZERO).await {
                Ok(RouteEvents::Gap) => None,
                Ok(RouteEvents::Changes(changes)) => changes.last().map(|(at, _)| *at).or(cursor),
                Err(_) => cursor,
            },
        };
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Damages each key in turn.
async fn damage_each_key(what: &str, damage: impl Fn(&ValkeyServer, &str)) {
    let Some(running) = Running::start(&[]).await else { return };
    let count = running.keys().len();
    assert!(count > 20, "{:?}", running.keys());
    for n in 0..count {
        let keys = running.keys();
        let Some(key) = keys.get(n) else { break };
        running.survive(&format!("{what} {key}"), |server| damage(server, key)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_may_be_lost() {
    damage_each_key("deleted", |server, key| server.query::<()>(&["DEL", key]).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_may_change_its_type() {
    // In one step: else a node could write the key again before it has another type.
    const CHANGE: &str = "local kind = redis.call('TYPE', KEYS[1]).ok
redis.call('DEL', KEYS[1])
if kind == 'string' then redis.call('HSET', KEYS[1], 'field', 'value') else redis.call('SET', KEYS[1], 'text') end";
    damage_each_key("of another type:", |server, key| {
        server.query::<()>(&["EVAL", CHANGE, "1", key]).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_value_may_become_unreadable() {
    damage_each_key("garbage in", |server, key| {
        let kind: String = server.query(&["TYPE", key]).unwrap();
        // The shared secret may be any text: a recovery is the only way to learn the former one.
        match kind.as_str() {
            "string" if !key.ends_with(":secret") => server.query::<()>(&["SET", key, "|garbage|"]).unwrap(),
            "hash" => {
                let fields: Vec<String> = server.query(&["HKEYS", key]).unwrap();
                fields.iter().for_each(|field| server.query::<()>(&["HSET", key, field, "garbage"]).unwrap());
            }
            _ => {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_set_of_keys_may_be_lost_at_once() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| ClaimToken::random().0 as u64);
    println!("SEED={seed}");
    // The generator SplitMix64.
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let Some(running) = Running::start(&[]).await else { return };
    for round in 0..12 {
        let keys = running.keys();
        // A share of the keys that differs from round to round.
        let share = random() % 100;
        let lost: Vec<&str> = keys.iter().filter(|_| random() % 100 < share).map(String::as_str).collect();
        if lost.is_empty() {
            continue;
        }
        let when = format!("SEED={seed}, round {round}, lost {lost:?}");
        running
            .survive(&when, |server| server.query::<()>(&[&["DEL"][..], &lost[..]].concat()).unwrap())
            .await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valkey_that_evicts_serves_claims_again_after_foreign_keys_filled_it() {
    let options = ["--maxmemory-policy", "allkeys-lru"];
    let Some(running) = Running::start(&options).await else { return };
    // What Valkey uses by itself, its scripts included, is no key that it could evict: without room above that, it would
    // evict each key as soon as it is written.
    let memory: String = running.server.query(&["INFO", "memory"]).unwrap();
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("the memory in use");
    let limit = used.parse::<u64>().unwrap() + 2 * 1024 * 1024;
    running.server.query::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).unwrap();
    let value = "x".repeat(1000);
    let client = redis::Client::open(format!("redis://{}", running.server.host_and_port())).unwrap();
    let mut connection = client.get_connection().unwrap();
    for batch in 0..60 {
        let mut keys = redis::pipe();
        for n in 0..100 {
            keys.set(format!("foreign:{}", batch * 100 + n), &value).ignore();
        }
        keys.query::<()>(&mut connection).unwrap();
    }
    let evicted: String = running.server.query(&["INFO", "stats"]).unwrap();
    assert!(!evicted.contains("evicted_keys:0"), "{evicted}");
    // A key that is restored may be evicted at once again, so only this holds while it is full: claims are granted, once
    // the foreign keys have not been used for longer than the own ones.
    for number in 0..6 {
        running.claim_within(MAX_REPAIR_TIME * 4, number % 2, "while Valkey evicts").await;
    }
    running.server.query::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    running.wait_until_whole("with room").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scripts_of_many_terms_do_not_fill_valkey() {
    let Some(running) = Running::start(&[]).await else { return };
    for term in 0..30 {
        let when = format!("after the loss of term {term}");
        running.survive(&when, |server| server.query::<()>(&["DEL", "{try-it-now}:tenure"]).unwrap()).await;
    }
    let memory: String = running.server.query(&["INFO", "memory"]).unwrap();
    let cached = memory.lines().find_map(|line| line.strip_prefix("number_of_cached_scripts:"));
    let cached: u64 = cached.expect("the number of scripts").parse().unwrap();
    // Without an end there would be 18 more for each term.
    assert!(cached < 180, "{cached} scripts");
    running.stop().await;
}

#[tokio::test]
async fn the_policy_of_a_valkey_that_evicts_is_read_without_config_get() {
    use try_it_now::store::valkey::{EvictionRisk, eviction_risk};
    let options = ["--maxmemory-policy", "volatile-ttl", "--rename-command", "CONFIG", ""];
    let Some(server) = ValkeyServer::start(Persistence::None, &options) else { return };
    let risk = eviction_risk(&settings(&server, "a")).await.unwrap();
    assert_eq!(risk, EvictionRisk::Policy("volatile-ttl".to_owned()));
}
