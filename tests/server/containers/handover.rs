//! Another process takes the place of the server, while visitors come and go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;
use try_it_now::telemetry::task;

use super::{ContainerHost, FULL_TIMEOUT, release, shut_down};
use crate::lifecycle::service::Manager;
use crate::support::harness::{AcquiredInstance, RawConnection, Server, eventually, get, request, websocket};
use crate::support::stack::Stack;
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// What visitors saw.
#[derive(Default)]
struct Visits {
    pages: AtomicUsize,
    acquired: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

pub(super) fn host() -> Option<ContainerHost> {
    ContainerHost::new(Stack::find()?, "sample", "", "path = \"/\"")
}

/// What is in flight may go on for longer than a test takes on a busy host.
const SETTINGS: [(&str, &str); 4] = [
    ("POOL_TARGET_SIZE", "4"),
    ("POOL_MAX_SIZE", "40"),
    ("POOL_REPLENISH_THRESHOLD", "1"),
    ("SHUTDOWN_GRACE", "300s"),
];

pub(super) async fn start(host: &ContainerHost) -> Server {
    host.start_server(&SETTINGS).await.full_within(FULL_TIMEOUT).await
}

/// Requests pages of an instance until the end.
async fn read_pages(port: u16, host: String, visits: Arc<Visits>) {
    while !visits.is_over.load(SeqCst) {
        match get(port, &host, "/").await {
            answer if answer.status == 200 => drop(visits.pages.fetch_add(1, SeqCst)),
            answer => visits.failures.lock().push(format!("page: {} {}", answer.status, answer.text())),
        }
    }
}

/// Acquires and releases instances until the end, each with a page between.
async fn acquire_and_release(port: u16, visits: Arc<Visits>) {
    let api = async |method: &str, path: &str| request(port, method, "localhost", path, &[], "").await;
    while !visits.is_over.load(SeqCst) {
        let answer = api("POST", "/api/v1/demo/acquire").await;
        if answer.status != 200 {
            visits.failures.lock().push(format!("acquire: {} {}", answer.status, answer.text()));
            continue;
        }
        let instance = AcquiredInstance::from_json(&answer.json());
        let (page, released) = (
            get(port, &instance.host, "/").await,
            api("DELETE", &format!("/api/v1/demo/{}", instance.id)).await,
        );
        if (page.status, released.status) != (200, 200) {
            visits.failures.lock().push(format!("visit: {} {}", page.text(), released.text()));
        }
        visits.acquired.lock().push(instance.id);
    }
}

#[tokio::test]
async fn other_processes_take_the_place_of_a_server_and_no_visitor_notices() {
    let Some(host) = host() else { return };
    let server = start(&host).await;
    no_visitor_notices(&host, server).await;
}

#[tokio::test]
async fn other_processes_take_the_place_of_a_server_with_valkey_and_no_visitor_notices() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let Some(host) = host() else { return };
    let address = valkey.host_and_port();
    let settings: Vec<_> = SETTINGS.into_iter().chain([("VALKEY_ADDR", &*address)]).collect();
    let server = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    no_visitor_notices(&host, server).await;
}

/// Has several processes take the place of a server with a full pool one after the other, under load, and then ends it.
async fn no_visitor_notices(host: &ContainerHost, mut server: Server) {
    let kept = server.acquire().await;
    let mut live = websocket::open(RawConnection::connect(server.port).await, &kept).await;
    let visits = Arc::new(Visits::default());
    let mut visitors: Vec<_> = [(); 3]
        .map(|()| task::spawn("visitor", read_pages(server.port, kept.host.clone(), visits.clone())))
        .into();
    for _ in 0..2 {
        visitors.push(task::spawn("visitor", acquire_and_release(server.port, visits.clone())));
    }
    let mut processes = BTreeSet::from([server.pid()]);
    for round in 0..4 {
        let (pages, acquired) = (visits.pages.load(SeqCst), visits.acquired.lock().len());
        eventually("visits before the handover", async || {
            (visits.pages.load(SeqCst) > pages + 20 && visits.acquired.lock().len() > acquired + 3)
                .then_some(())
        })
        .await;
        server.replace().await;
        assert!(processes.insert(server.pid()), "another process");
        // What was begun goes on in the process that began it.
        websocket::echo(&mut live, &format!("round {round}")).await;
        let (pages, acquired) = (visits.pages.load(SeqCst), visits.acquired.lock().len());
        eventually("visits after the handover", async || {
            let failures = visits.failures.lock().clone();
            assert_eq!(failures, Vec::<String>::new(), "round {round}");
            (visits.pages.load(SeqCst) > pages + 20 && visits.acquired.lock().len() > acquired + 3)
                .then_some(())
        })
        .await;
    }
    visits.is_over.store(true, SeqCst);
    for visitor in visitors {
        visitor.await.unwrap();
    }
    assert_eq!(visits.failures.lock().clone(), Vec::<String>::new());
    let acquired = visits.acquired.lock().clone();
    let different: BTreeSet<_> = acquired.iter().collect();
    assert_eq!(different.len(), acquired.len(), "no instance was assigned twice");
    assert_eq!(host.nodes().len(), 1, "all processes are one node");

    // The old processes end once nothing is left for them to carry.
    drop(live);
    eventually("one process is left", async || {
        let is_gone = |pid: &u32| !Path::new(&format!("/proc/{pid}/exe")).exists();
        processes.iter().filter(|pid| **pid != server.pid()).all(is_gone).then_some(())
    })
    .await;
    let server = server.full_within(FULL_TIMEOUT).await;
    eventually("each container has a record", async || {
        let stats = server.stats().await;
        let on_record = stats["ready"].as_u64()? + stats["assigned"].as_u64()? + stats["warming"].as_u64()?;
        (host.containers().len() as u64 == on_record && stats["assigned"] == 1).then_some(())
    })
    .await;
    release(&server, &kept.id).await;
    let mut server = server;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_signal_ends_the_old_process_while_it_carries_a_websocket_and_the_new_one_goes_on() {
    let Some(host) = host() else { return };
    let mut server = start(&host).await;
    let kept = server.acquire().await;
    let mut live = websocket::open(RawConnection::connect(server.port).await, &kept).await;
    let old = Pid::from_raw(server.pid() as i32).unwrap();
    server.replace().await;
    websocket::echo(&mut live, "carried").await;
    kill_process(old, Signal::TERM).unwrap();
    websocket::wait_for_close(&mut live).await;
    assert_eq!(get(server.port, &kept.host, "/").await.status, 200);
    release(&server, &kept.id).await;
    server.signal("TERM");
    // The status is that of the old process, which a signal ended in its own shutdown.
    assert_eq!(server.wait_for_exit().await, Some(130));
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn open_connections_pass_to_the_new_process_with_what_was_read_of_their_next_request() {
    let Some(host) = host() else { return };
    let mut server = start(&host).await;
    let kept = server.acquire().await;
    // How each connection began, and what is sent of its next request before the handover.
    let begun = ["", "api", "app", "both"];
    let parts = ["", "\r\n", "G", "whole head but its end"];
    let hosts = ["localhost", &kept.host];
    let mut connections = Vec::new();
    let cases = begun.into_iter().flat_map(|first| {
        parts.into_iter().flat_map(move |part| hosts.into_iter().map(move |host| (first, part, host)))
    });
    for (first, part, host) in cases {
        let mut connection = RawConnection::connect(server.port).await;
        if ["api", "both"].contains(&first) {
            assert_eq!(connection.get("localhost", "/health").await.status, 200);
        }
        if ["app", "both"].contains(&first) {
            assert_eq!(connection.get(&kept.host, "/").await.status, 200);
        }
        let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let sent = match part {
            "G" => 1,
            "whole head but its end" => request.len() - 1,
            _ => 0,
        };
        connection.send(if sent == 0 { part } else { &request[..sent] }).await;
        connections.push((format!("{first:?} {part:?} {host}"), connection, request[sent..].to_owned()));
    }
    // After this answer the server has read what was sent before, most likely. If not, the new process reads it.
    server.stats().await;

    server.replace().await;
    for (name, connection, rest) in &mut connections {
        connection.try_send(&*rest).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let answer = connection.read_answer().await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(connection.get("localhost", "/health").await.status, 200, "{name}: it stays open");
    }
    // And to the next one.
    server.replace().await;
    for (name, connection, _) in &mut connections {
        assert_eq!(connection.get(&kept.host, "/").await.status, 200, "{name}");
    }
    drop(connections);
    release(&server, &kept.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_request_in_flight_is_answered_by_the_old_process() {
    let Some(host) = host() else { return };
    let mut server = start(&host).await;
    let kept = server.acquire().await;
    let mut connection = RawConnection::connect(server.port).await;
    // Its body is still on its way.
    let head = "POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\n12".replace("{}", &kept.host);
    connection.send(head).await;
    server.stats().await;
    server.replace().await;
    connection.send("34").await;
    let answer = connection.read_answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers["connection"], "close");
    release(&server, &kept.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn pages_are_answered_while_the_old_process_completes_a_request_for_the_api() {
    let Some(host) = host() else { return };
    let settings: Vec<_> = SETTINGS.into_iter().chain([("ACQUIRE_TIMEOUT", "60s")]).collect();
    let mut server = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    let visited = server.acquire().await;
    let page = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", visited.host);
    let mut kept = RawConnection::connect(server.port).await;
    let mut acquiring = RawConnection::connect(server.port).await;
    // Its body is still on its way, so the old process cannot free the node.
    let head = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    acquiring.send(head).await;
    server.stats().await;
    server.signal("USR2");
    server.log_until(|line| line.contains("freeing the node")).await;
    // From some moment on requests for the API wait for the new process, except those for the health of this one.
    let mut asking = RawConnection::connect(server.port).await;
    loop {
        asking.send("GET /api/v1/pool/stats HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        match timeout(Duration::from_secs(1), asking.read_answer()).await {
            Ok(answer) => assert_eq!(answer.status, 200),
            Err(_) => break,
        }
    }
    let mut checking = RawConnection::connect(server.port).await;
    for method in ["GET", "HEAD", "GET"] {
        checking.send(format!("{method} /health HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let answer = checking.read_head().await;
        assert_eq!((answer.status, answer.headers.get("connection")), (200, None), "{method}");
        if method == "GET" {
            assert_eq!(checking.read_body(answer).await.json()["status"], "ok");
        }
    }
    // Two at once: the second waits.
    let both = ["/health", "/api/v1/pool/stats"];
    checking.send(both.map(|path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).concat()).await;
    assert_eq!(checking.read_answer().await.json()["status"], "ok");
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let before = descriptors();
    for _ in 0..20 {
        assert_eq!(get(server.port, &visited.host, "/").await.status, 200);
        kept.send(&page).await;
        let answer = kept.read_answer().await;
        assert_eq!((answer.status, answer.headers.get("connection")), (200, None));
    }
    // Those that clients have closed do not wait for the new process.
    eventually("closed connections are gone", async || (descriptors() < before + 10).then_some(())).await;
    let is_replaced = |line: &String| line.contains("has taken the place");
    assert!(!server.log().iter().any(is_replaced), "the node was freed while it was used");
    acquiring.send("{}").await;
    let acquired = AcquiredInstance::from_json(&acquiring.read_answer().await.json());
    server.follow_successor().await;
    for waiting in [&mut asking, &mut checking] {
        assert_eq!(waiting.read_answer().await.status, 200);
    }
    for id in [&visited.id, &acquired.id] {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_handover_keeps_ready_instances_and_reads_the_configuration_again() {
    let Some(host) = host() else { return };
    let mut manager = Manager::new();
    let path = manager.path.to_str().unwrap().to_owned();
    let settings: Vec<_> = SETTINGS.into_iter().chain([("NOTIFY_SOCKET", &*path)]).collect();
    let mut server = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    let ready = host.containers();
    server.replace().await;
    manager.wait_for(&format!("MAINPID={}", server.pid())).await;
    let acquired = server.acquire().await;
    assert!(ready.contains(&acquired.id), "{acquired:?} of {ready:?}");

    // A configuration with an error: this process goes on.
    let file = host.folder.join("templates.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "[templates.\n").unwrap();
    let pid = server.pid();
    server.signal("USR2");
    server.log_until(|line| line.contains("failed to start another server; this one goes on")).await;
    assert_eq!(get(server.port, &acquired.host, "/").await.status, 200);
    assert_eq!(server.pid(), pid);
    std::fs::write(&file, format!("{text}[templates.{0}.pool]\ntarget = 2\n", host.template)).unwrap();
    server.replace().await;
    eventually("the pool has its new size", async || (server.stats().await["target"] == 2).then_some(()))
        .await;
    assert_eq!(get(server.port, &acquired.host, "/").await.status, 200);
    release(&server, &acquired.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

/// Returns the child of a process that is another server, once there is one.
async fn successor_of(pid: u32) -> Pid {
    eventually("another server is started", async || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let mut children = children.split_whitespace().filter_map(|child| child.parse::<i32>().ok());
        let is_server = |child: &i32| {
            let command = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains("serve\0--config")
        };
        Pid::from_raw(children.find(is_server)?)
    })
    .await
}

#[tokio::test]
async fn a_process_that_is_killed_before_it_is_prepared_changes_nothing() {
    let Some(host) = host() else { return };
    let server = start(&host).await;
    let old = server.pid();
    // It waits for a writer of the file that it reads.
    let file = host.folder.join("templates.toml");
    let text = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    server.signal("USR2");
    kill_process(successor_of(old).await, Signal::KILL).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, text).unwrap();
    server.log_until(|line| line.contains("failed to start another server; this one goes on")).await;
    assert_eq!(server.pid(), old);
    keeps_all_in_the_next_handover(&host, server).await;
}

#[tokio::test]
async fn a_process_that_is_killed_when_the_node_is_its_own_is_replaced_by_another() {
    let Some(host) = host() else { return };
    let mut server = start(&host).await;
    let kept = server.acquire().await;
    // The client of an accepted connection that sends nothing delays the handover.
    let mut connection = RawConnection::connect(server.port).await;
    server.signal("USR2");
    server.log_until(|line| line.contains("another server is prepared")).await;
    kill_process(successor_of(server.pid()).await, Signal::KILL).unwrap();
    connection.send(format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", kept.host)).await;
    assert_eq!(connection.read_head().await.status, 200);
    server.log_until(|line| line.contains("starting another server again")).await;
    server.follow_successor().await;
    assert_eq!(get(server.port, &kept.host, "/").await.status, 200);
    release(&server, &kept.id).await;
    keeps_all_in_the_next_handover(&host, server.full_within(FULL_TIMEOUT).await).await;
}

async fn keeps_all_in_the_next_handover(host: &ContainerHost, mut server: Server) {
    let (kept, ready) = (server.acquire().await, host.containers());
    server.replace().await;
    assert_eq!(get(server.port, &kept.host, "/").await.status, 200);
    let next = server.acquire().await;
    assert!(ready.contains(&next.id) && next.id != kept.id, "{next:?} of {ready:?}");
    for id in [&kept.id, &next.id] {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
