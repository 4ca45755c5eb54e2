//! Containers in numbers, and large ones.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::containers::{FULL, Host, inside, note, page, release, stop};
use crate::support::harness::{Demo, Server, eventually_within, get, request};

/// What a server holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    networks: usize,
    threads: usize,
    /// Resident memory in KiB.
    memory: usize,
}

fn holdings(pid: u32) -> Holdings {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Holdings {
        descriptors: count("fd"),
        networks: crate::support::leak_check::networks(pid),
        threads: count("task"),
        memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// One visit: a copy that nobody was in before is written to and given back.
async fn cycle(server: &Server, number: usize) -> String {
    let demo = eventually_within(FULL, "an instance is to be had", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| Demo::from_json(&answer.json()))
    })
    .await;
    note(server.port, &demo, &format!("visit{number}")).await;
    assert_eq!(page(server.port, &demo).await, (1, vec![format!("visit{number}")]));
    release(server, &demo.id).await;
    demo.id
}

async fn cycles(server: &Server, count: usize) -> BTreeSet<String> {
    let (next, ids) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let visitor = async || {
        while let number = next.fetch_add(1, SeqCst)
            && number < count
        {
            let id = cycle(server, number).await;
            assert!(ids.lock().unwrap().insert(id), "handed out once");
        }
    };
    futures_util::future::join_all([(); 4].map(|()| visitor())).await;
    ids.into_inner().unwrap()
}

/// Waits until the pool is full and nothing else runs.
async fn settle(host: &Host, server: &Server) -> BTreeSet<String> {
    eventually_within(FULL, "only ready instances run", async || {
        let containers = host.containers();
        let stats = server.stats().await;
        let quiet = stats["ready"] == 4 && stats["assigned"] == 0 && stats["warming"] == 0;
        (quiet && containers.len() == 4).then_some(containers)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_visits_leave_nothing_behind() {
    let Some(host) = Host::php() else { return };
    let settings = [("POOL_TARGET_SIZE", "4"), ("POOL_MAX_SIZE", "12"), ("LOG_LEVEL", "info")];
    let mut server = host.serve(&settings).await.full_within(FULL).await;
    // What is kept from then on is there after the first few.
    cycles(&server, 20).await;
    settle(&host, &server).await;
    let before = holdings(server.pid());

    let visited = cycles(&server, 200).await;
    assert_eq!(visited.len(), 200);
    let ready = settle(&host, &server).await;
    let gone: Vec<&str> = visited.iter().map(String::as_str).collect();
    assert_eq!(host.stack.traces(&gone), BTreeSet::new());
    assert!(ready.is_disjoint(&visited));
    let within = |after: Holdings| {
        after.descriptors <= before.descriptors + 8
            && after.networks <= before.networks
            && after.threads <= before.threads + 8
            && after.memory <= before.memory + 24 * 1024
    };
    // Connections and threads that are idle go after a while.
    let after = Mutex::new(before);
    let bounded = eventually_within(Duration::from_secs(60), "it holds no more than before", async || {
        *after.lock().unwrap() = holdings(server.pid());
        within(*after.lock().unwrap()).then_some(())
    });
    let bounded = tokio::time::timeout(Duration::from_secs(30), bounded).await;
    assert!(bounded.is_ok(), "{before:?} {:?}", after.lock().unwrap());
    stop(&mut server).await;
    host.nothing_left().await;
}

/// Logs in, and returns the name and the value of the cookie that says so.
async fn log_in(port: u16, demo: &Demo, password: &str) -> (String, String) {
    let form = format!("log=admin&pwd={password}&testcookie=1");
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("cookie", "wordpress_test_cookie=WP%20Cookie%20check"),
    ];
    let answer = request(port, "POST", &demo.host, "/wp-login.php", &headers, &form).await;
    assert_eq!(answer.status, 302, "{}", answer.text());
    let mut cookies = answer.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
    let cookie = cookies.rfind(|cookie| cookie.starts_with("wordpress_logged_in_")).unwrap();
    let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
    (name.to_owned(), value.to_owned())
}

/// Whether a cookie is worth anything: the address of the profile is shown to those who are logged in.
async fn knows(port: u16, demo: &Demo, name: &str, value: &str) -> bool {
    let cookie = format!("{name}={value}");
    let page = request(port, "GET", &demo.host, "/", &[("cookie", &cookie)], "").await;
    assert_eq!(page.status, 200);
    page.text().contains("wp-admin/profile.php")
}

#[tokio::test]
async fn two_copies_of_wordpress_share_nothing_that_a_visitor_makes_and_no_secret() {
    const LONG: Duration = Duration::from_secs(240);
    let Some(host) = Host::wordpress() else { return };
    let mut server = host.serve(&[]).await.full_within(LONG).await;
    let port = server.port;
    let (a, b) = (server.acquire().await, server.acquire().await);

    for (one, other) in [(&a, &b), (&b, &a)] {
        let tables =
            inside(&host, one, &["mariadb-check", "--socket=/run/mysqld/mysqld.sock", "--all-databases"]);
        let states: Vec<_> = tables.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert!(states.len() >= 12 && states.iter().all(|state| *state == "OK"), "{tables}");
        let front = get(port, &one.host, "/").await.text();
        assert!(front.contains(&format!("http://{}/", one.host)), "its links lead to itself");
        assert!(!front.contains(&other.id), "and not to another");
    }

    let salts = [&a, &b].map(|demo| {
        let script = "require '/usr/share/wordpress/wp-load.php'; wp_set_password('open', 1); \
                      echo AUTH_KEY, LOGGED_IN_SALT, NONCE_SALT;";
        inside(&host, demo, &["php", "-r", script])
    });
    assert!(salts[0].len() > 60, "{salts:?}");
    assert_ne!(salts[0], salts[1]);
    let (of_a, of_b) = (log_in(port, &a, "open").await, log_in(port, &b, "open").await);
    assert!(knows(port, &a, &of_a.0, &of_a.1).await && knows(port, &b, &of_b.0, &of_b.1).await);
    // By the name that the other would look for.
    assert!(!knows(port, &b, &of_b.0, &of_a.1).await, "a session is one copy's own");

    let post = "<?xml version=\"1.0\"?><methodCall><methodName>metaWeblog.newPost</methodName><params>\
        <param><value><string>1</string></value></param><param><value><string>admin</string></value></param>\
        <param><value><string>open</string></value></param><param><value><struct>\
        <member><name>title</name><value><string>Only here</string></value></member>\
        <member><name>description</name><value><string>Words of a visitor</string></value></member>\
        </struct></value></param><param><value><boolean>1</boolean></value></param></params></methodCall>";
    let written = request(port, "POST", &a.host, "/xmlrpc.php", &[("content-type", "text/xml")], post).await;
    assert!(written.status == 200 && !written.text().contains("fault"), "{}", written.text());
    assert!(get(port, &a.host, "/").await.text().contains("Only here"));
    let others = get(port, &b.host, "/").await.text();
    assert!(others.contains("Hello world!") && !others.contains("Only here"));

    release(&server, &a.id).await;
    assert!(get(port, &b.host, "/").await.text().contains("Hello world!"));
    release(&server, &b.id).await;
    stop(&mut server).await;
    host.nothing_left().await;
}
