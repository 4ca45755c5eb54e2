//! Users of images, the ports that they may listen on, and their limits of open files.

use serde_json::json;
use try_it_now::runtime::Runtime;
use try_it_now::template::{App, ResourceLimits};

use super::builder::{Layer, image};
use super::{Running, TestNode, cold_and_restored, output, start_request, wait_until, with_timeout};

/// Serves `/www` on port 80.
const SERVE: [&str; 6] = ["httpd", "-f", "-p", "127.0.0.1:80", "-h", "/www"];

/// Reports who the script and process 1 are.
const WHO: &str = "id -u; id -g; id -G; echo $HOME; grep -E '^(Uid|Gid|Groups)' /proc/1/status; echo";

/// Returns what [`WHO`] writes.
fn who(uid: u32, gid: u32, groups: &str, home: &str) -> String {
    let mut sorted: Vec<u32> = groups.split(' ').map(|gid| gid.parse().unwrap()).collect();
    sorted.sort_unstable();
    let sorted: Vec<String> = sorted.iter().map(u32::to_string).collect();
    format!(
        "{uid}\n{gid}\n{groups}\n{home}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n\
         Groups:\t{} \n\n",
        sorted.join(" ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_user_has_its_groups_and_home_and_listens_on_port_80_started_or_restored() {
    let Some(test_node) = TestNode::new() else { return };
    let config = json!({ "User": "node", "Cmd": SERVE });
    let app = image(&test_node, "node", vec![Layer::base().bytes()], config);
    let check = async |instance: &Running<'_>| {
        assert_eq!(instance.page().await, "hello\n");
        assert_eq!(instance.script(WHO).await, who(1000, 1001, "1001 29 33", "/home/node"));
        // What its process 1 knows was set at its start.
        let home = instance.script("grep -z ^HOME= /proc/1/environ").await;
        assert_eq!(home.trim_end_matches(['\0', '\n']), "HOME=/home/node");
        // Its output is its own: programs open these paths.
        instance.script("echo to the log > /dev/stdout; echo and > /proc/self/fd/2").await;
    };
    if may_freeze_other_users() {
        return cold_and_restored(&test_node, &app, check).await;
    }
    let runtime = test_node.open().await;
    check(&Running::start(&runtime, &app).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_has_the_home_and_groups_of_its_image_started_or_restored() {
    let Some(test_node) = TestNode::new() else { return };
    let upper = Layer::new().file("etc/passwd", 0o644, b"admin:x:0:0::/srv/admin:/bin/sh\n").file(
        "etc/group",
        0o644,
        b"root:x:0:\nwheel:x:10:admin\ndisk:x:6:admin,other\n",
    );
    let config = json!({ "User": "admin", "Cmd": SERVE });
    let app = image(&test_node, "admin", vec![Layer::base().bytes(), upper.bytes()], config);
    cold_and_restored(&test_node, &app, async |instance| {
        assert_eq!(instance.page().await, "hello\n");
        assert_eq!(instance.script(WHO).await, who(0, 0, "0 6 10", "/srv/admin"));
    })
    .await;
}

/// Returns whether CRIU may read the limits of processes of other users. Machines without this right restore only apps
/// that run as root.
fn may_freeze_other_users() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(rights.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_by_number_group_or_template_are_those_of_docker() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let report = [
        "sh",
        "-c",
        "id -u; id -g; id -G; echo $HOME; grep -E '^(Uid|Gid|Groups)' /proc/1/status; echo; exec sleep 600",
    ];
    let layers = || vec![Layer::base().bytes()];
    let cases = [
        ("", None, who(0, 0, "0", "/root")),
        ("root", None, who(0, 0, "0", "/root")),
        ("1000", None, who(1000, 1001, "1001 29 33", "/home/node")),
        ("1000:www-data", None, who(1000, 33, "33", "/home/node")),
        ("node:1000", None, who(1000, 1000, "1000", "/home/node")),
        ("4000", None, who(4000, 0, "0", "/")),
        ("root", Some("low"), who(70, 70, "70 29", "/")),
        ("nosuch", Some("4000:33"), who(4000, 33, "33", "/")),
    ];
    for (number, (user, of_template, expected)) in cases.into_iter().enumerate() {
        let config = json!({ "User": user, "Cmd": report });
        let app = image(&test_node, &format!("user-{number}"), layers(), config);
        let app = App { user: of_template.map(str::to_owned), ..app };
        let request = start_request(&app);
        with_timeout(runtime.start(&request)).await.unwrap();
        let seen = wait_until("it reports its user", async || {
            output(&runtime, &request.id).await.filter(|text| text.ends_with("\n\n"))
        });
        assert_eq!(seen.await, expected, "{user:?} {of_template:?}");
        with_timeout(runtime.stop(&request.id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_the_image_does_not_know_is_an_error_and_never_root() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    // The upper layer removes the file with the users, or leads out of the image.
    let removed = || Layer::new().file("etc/.wh.passwd", 0o644, b"").bytes();
    let outside = || Layer::new().link("etc/passwd", "../../../../../../../../../etc/passwd").bytes();
    let none = "no matching entries in passwd file";
    let cases = [
        ("nosuch", None, format!("cannot use the image's user `nosuch`: unable to find user nosuch: {none}")),
        ("node:nosuch", None, "unable to find group nosuch: no matching entries in group file".to_owned()),
        ("node", Some(removed()), format!("unable to find user node: {none}")),
        ("daemon", Some(outside()), format!("unable to find user daemon: {none}")),
        ("-1", None, "uids and gids must be in range 0-2147483647".to_owned()),
    ];
    for (number, (user, upper, expected)) in cases.into_iter().enumerate() {
        let layers = [Layer::base().bytes()].into_iter().chain(upper).collect();
        let config = json!({ "User": user, "Cmd": ["sleep", "600"] });
        let app = image(&test_node, &format!("user-{number}"), layers, config);
        let error = with_timeout(runtime.start(&start_request(&app))).await.unwrap_err().to_string();
        assert!(error.contains(&expected), "{error}");
    }
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_files_are_limited_as_docker_does_whatever_containerd_has() {
    let Some(test_node) = TestNode::new() else { return };
    let host = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let config = json!({ "Cmd": SERVE });
    let app = image(&test_node, "files", vec![Layer::base().bytes()], config);
    let limits = "ulimit -Sn; ulimit -Hn; grep '^Max open files' /proc/1/limits";
    let expected = |soft: u64, hard: u64| {
        let columns = format!("{:<25} {soft:<20} {hard:<20} files", "Max open files");
        format!("{soft}\n{hard}\n{columns}")
    };
    cold_and_restored(&test_node, &app, async |instance| {
        let seen = instance.script(limits).await;
        assert_eq!(seen.trim_end(), expected(1024, host.min(524_288)));
    })
    .await;
    let limit = ResourceLimits { open_files: Some(64), ..ResourceLimits::default() };
    let limited = App { limits: limit, env: [("LIMITED".to_owned(), "yes".to_owned())].into(), ..app };
    let runtime = test_node.open().await;
    let request = try_it_now::runtime::StartRequest { revision: 2, ..start_request(&limited) };
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    let instance = Running { runtime: &runtime, request, started };
    assert_eq!(instance.script(limits).await.trim_end(), expected(64, 64));
}
