//! Limits of all instances of a node together.

use std::path::PathBuf;

use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::containerd::NodeLimitSettings;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, ResourceLimits};

use super::resource_limits::pids_of;
use super::{
    COUNTER_APP, REVISION, TestNode, app, fs, php, send_command, shell, start, wait_until, with_timeout,
};

/// Keeps as many mebibytes as a visitor asks for, and executes the one line that each visitor sends.
const EATER_APP: &str = r#"
$eaten = [];
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    if ($words[0] === "eat") for ($i = 0; $i < $words[1]; $i++) $eaten[] = str_repeat("x", 1 << 20);
    fwrite($visitor, count($eaten));
    fclose($visitor);
}
"#;

fn test_node(memory: u64, pids: u64) -> Option<TestNode> {
    let mut test_node = TestNode::new()?;
    test_node.settings.node_limits = NodeLimitSettings { memory: Some(memory << 20), pids: Some(pids) };
    Some(test_node)
}

impl TestNode {
    /// Returns the cgroup of all instances of this node in a hierarchy of cgroup v1, or that of v2.
    pub(super) fn group(&self, controller: &str) -> PathBuf {
        let name = format!("try-it-now/{}.instances", self.settings.node);
        match super::restore::restores_without_runc() {
            true => PathBuf::from("/sys/fs/cgroup").join(controller).join(name),
            false => PathBuf::from("/sys/fs/cgroup").join(name),
        }
    }

    /// Returns a number of the cgroup of all instances of this node, whose file has a name on cgroup v1 and one on v2.
    fn memory_number(&self, name_v1: &str, name_v2: &str) -> u64 {
        let file = if super::restore::restores_without_runc() { name_v1 } else { name_v2 };
        number(self.group("memory").join(format!("memory.{file}")))
    }

    /// Returns the bytes that all instances of this node use.
    fn used_memory(&self) -> u64 {
        self.memory_number("usage_in_bytes", "current")
    }
}

fn number(path: PathBuf) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn eater(memory: u64) -> App {
    let limits = ResourceLimits { memory: Some(memory << 20), ..ResourceLimits::default() };
    App { limits, ..app(&["php", "-d", "memory_limit=-1", "-r", EATER_APP]) }
}

/// Starts three instances of an eater, cold or restored.
async fn start_eaters(runtime: &dyn Runtime, is_restored: bool) -> Vec<(InstanceId, Endpoint)> {
    let eater = eater(96);
    if is_restored {
        let (id, started) = start(runtime, &eater).await;
        assert_eq!(send_command(runtime, started.endpoint, "look").await, "0");
        with_timeout(runtime.bake(&id, REVISION, &eater)).await.unwrap();
    }
    let method = if is_restored { StartMethod::Restored } else { StartMethod::Cold };
    let mut instances = Vec::new();
    for _ in 0..3 {
        let (id, started) = start(runtime, &eater).await;
        assert_eq!(started.method, method);
        assert_eq!(send_command(runtime, started.endpoint, "look").await, "0");
        instances.push((id, started.endpoint));
    }
    instances
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_instance_ends_before_the_memory_of_all_is_used_up_and_the_others_live() {
    const LIMIT: u64 = 160 << 20;
    for is_restored in [false, true] {
        let Some(test_node) = test_node(LIMIT >> 20, 500) else { return };
        let runtime = test_node.open().await;
        let mut exits = runtime.exits();
        let eaters = start_eaters(&runtime, is_restored).await;
        let [(largest_id, largest), (_, smaller), (_, good)] = eaters.as_slice() else { panic!() };
        // None of them reaches its own limit.
        assert_eq!(send_command(&runtime, *largest, "eat 80").await, "80");
        // It stops short of the limit of all, where the kernel would choose if this host gave the server no processor in
        // time, and short of its own.
        let mut eaten = 0;
        let ended = wait_until("the largest has ended", async || {
            if test_node.used_memory() < LIMIT - (12 << 20) && eaten < 76 {
                send_command(&runtime, *smaller, "eat 1").await;
                eaten += 1;
            }
            exits.try_recv().ok()
        })
        .await;
        assert_eq!(&ended.id, largest_id, "{}", ended.cause);
        assert!(ended.cause.contains("this one uses the most: "), "{}", ended.cause);
        wait_until("the largest is removed", async || {
            (!runtime.list().await.unwrap().contains(largest_id)).then_some(())
        })
        .await;
        assert_eq!(send_command(&runtime, *good, "eat 1").await, "1");
        assert_ne!(send_command(&runtime, *smaller, "look").await, "0");
        assert!(exits.try_recv().is_err(), "only one instance ended");
        wait_until("the limit is the operator's again", async || {
            (test_node.memory_number("limit_in_bytes", "max") == LIMIT).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_eat_memory_as_fast_as_they_can_end_and_a_good_one_lives() {
    let Some(test_node) = test_node(128, 500) else { return };
    let runtime = test_node.open().await;
    let mut exits = runtime.exits();
    let (good_id, good) = start(&runtime, &php(COUNTER_APP)).await;
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "1");
    let eat = "$eaten = []; while (true) { $eaten[] = str_repeat(\"x\", 1 << 20); }";
    let greedy = App { limits: eater(96).limits, ..app(&["php", "-d", "memory_limit=-1", "-r", eat]) };
    for _ in 0..4 {
        let (id, _) = start(&runtime, &greedy).await;
        let exit = with_timeout(exits.recv()).await.unwrap();
        assert_eq!(exit.id, id, "{}", exit.cause);
    }
    let (first, second) = tokio::join!(start(&runtime, &greedy), start(&runtime, &greedy));
    for _ in 0..2 {
        let exit = with_timeout(exits.recv()).await.unwrap();
        assert!([&first.0, &second.0].contains(&&exit.id), "{}", exit.cause);
    }
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "2");
    assert!(runtime.list().await.unwrap().contains(&good_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fork_bombs_in_several_instances_stop_at_the_limit_of_all() {
    const OF_ALL: u64 = 90;
    let Some(test_node) = test_node(1024, OF_ALL) else { return };
    let runtime = test_node.open().await;
    let (_, good) = start(&runtime, &php(COUNTER_APP)).await;
    let limits = ResourceLimits { pids: Some(60), memory: Some(64 << 20), ..ResourceLimits::default() };
    let bomb = App { limits, ..shell("while :; do (sleep 600 &) || echo no more; sleep 0.01; done") };
    let (first, _) = start(&runtime, &bomb).await;
    let (second, _) = start(&runtime, &bomb).await;
    let events = test_node.group("pids").join("pids.current");
    wait_until("they reach the limit of all", async || (number(events.clone()) >= OF_ALL).then_some(()))
        .await;
    let both = pids_of(first.as_str()).len() + pids_of(second.as_str()).len();
    assert!(both <= OF_ALL as usize, "{both} processes");
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "1");
    for id in [&first, &second] {
        with_timeout(runtime.stop(id)).await.unwrap();
    }
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_burns_its_processor_under_its_limit_can_be_frozen() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let burn = "for i in 1 2 3; do (while :; do :; done) & done; exec php -r \"$1\"";
    let limits = ResourceLimits { millicpus: Some(50), ..ResourceLimits::default() };
    let burner = App { limits, ..app(&["sh", "-c", burn, "sh", COUNTER_APP]) };
    let (id, started) = start(&runtime, &burner).await;
    assert_eq!(started.method, StartMethod::Cold);
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    is_held_back(&test_node, &id).await;
    with_timeout(runtime.bake(&id, REVISION, &burner)).await.unwrap();
    let (id, started) = start(&runtime, &burner).await;
    assert_eq!(started.method, StartMethod::Restored);
    is_held_back(&test_node, &id).await;
    with_timeout(runtime.stop(&id)).await.unwrap();
}

/// Waits until the kernel holds an instance back at its limit of processors.
async fn is_held_back(test_node: &TestNode, id: &InstanceId) {
    let stat = test_node.group("cpu").join(id.as_str()).join("cpu.stat");
    wait_until("it is held back", async || {
        let stat = fs::read_to_string(&stat).unwrap();
        let times = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        (times != "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_has_one_processor_unless_its_template_says_otherwise() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = php(COUNTER_APP);
    let (id, started) = start(&runtime, &counter).await;
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    let quota = |id: &InstanceId| match super::restore::restores_without_runc() {
        true => {
            fs::read_to_string(test_node.group("cpu").join(id.as_str()).join("cpu.cfs_quota_us")).unwrap()
        }
        false => fs::read_to_string(test_node.group("cpu").join(id.as_str()).join("cpu.max")).unwrap(),
    };
    assert!(quota(&id).starts_with("100000"), "{}", quota(&id));
    with_timeout(runtime.bake(&id, REVISION, &counter)).await.unwrap();
    for _ in 0..2 {
        let (id, started) = start(&runtime, &counter).await;
        assert_eq!(started.method, StartMethod::Restored);
        assert!(quota(&id).starts_with("100000"), "{}", quota(&id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_all_are_set_again_and_their_group_goes_with_the_server() {
    let Some(test_node) = test_node(300, 400) else { return };
    let runtime = test_node.open().await;
    if !super::restore::restores_without_runc() {
        return;
    }
    let limit = || number(test_node.group("memory").join("memory.limit_in_bytes"));
    assert_eq!(limit(), 300 << 20);
    assert_eq!(number(test_node.group("pids").join("pids.max")), 400);
    let parent = test_node.group("cpu");
    // A server in the root group, where each thread weighs as much as a group, needs no smaller weight.
    let own_groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let is_in_root =
        own_groups.lines().any(|line| line.ends_with(":cpu:/") || line.ends_with(":cpu,cpuacct:/"));
    let shares = if is_in_root { 1024 } else { 512 };
    assert_eq!(number(parent.parent().unwrap().join("cpu.shares")), shares);
    // As `clean` of another server does, or a reboot.
    for controller in ["memory", "pids", "cpu"] {
        fs::remove_dir(test_node.group(controller)).unwrap();
    }
    let (id, started) = start(&runtime, &php(COUNTER_APP)).await;
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    assert_eq!(limit(), 300 << 20);
    assert_eq!(pids_of(id.as_str()).len(), 1);
    drop(runtime);

    let runtime = test_node.open().await;
    assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&id));
    with_timeout(runtime.stop(&id)).await.unwrap();
    drop(runtime);
    wait_until("its group is removed", async || (!test_node.group("memory").exists()).then_some(())).await;
}
