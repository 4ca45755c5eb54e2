//! Nothing of an instance outlives it, whoever is killed.

use super::*;

#[tokio::test]
async fn a_stop_ends_children_grandchildren_and_daemons() {
    let host = Host::new().await;
    let (id, family) = host.start_family(&[HIDDEN]).await;
    within(host.runtime.stop(&id)).await.unwrap();
    assert_eq!(living(&family), [""; 0]);
    assert_eq!(host.place.folders(), 0);
}

#[tokio::test]
async fn what_an_app_leaves_behind_ends_with_it() {
    let host = Host::new().await;
    let (id, family) = host.start_family(&[HIDDEN]).await;
    let mut exits = host.runtime.exits();
    kill_process(family["app"], Signal::TERM).unwrap();
    let exit = within(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.how.as_str()), (id, "signal 15"));
    until_none_lives(&family).await;
    until("its folder is removed", async || (host.place.folders() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_family_that_grows_without_end_is_ended() {
    let host = Host::new().await;
    // Twenty at a time, each starts its successor in another session and ends: never the same process twice.
    let app = host.with_script(
        "echo >> runs; setsid ./run &",
        "for i in $(seq 20); do ./run; done
        while [ $(wc -l < runs) -lt 500 ]; do :; done; echo ready; exec sleep 600",
    );
    let (id, _) = host.start(&app).await;
    within(host.runtime.stop(&id)).await.unwrap();
    assert_eq!(host.place.folders(), 0);
    assert!(processes_of(&id).is_empty());
}

/// Living processes that carry the instance's id.
fn processes_of(id: &InstanceId) -> Vec<Pid> {
    let label = format!("INSTANCE_ID={id}");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let carries = |pid: &Pid| {
        fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()))
            .is_ok_and(|block| block.split(|b| *b == 0).any(|variable| variable == label.as_bytes()))
    };
    pids.filter(carries).filter(|pid| alive(*pid)).collect()
}

#[tokio::test]
async fn when_the_server_is_killed_nothing_runs_on() {
    match env::var(ROLE).as_deref() {
        Ok("listen") => return listen(),
        Ok("serve") => return serve().await,
        _ => {}
    }
    let place = Place::new();
    let node = NodeId::random();
    let (mut server, family) = stand_in(&place, &node).await;
    server.kill().await.unwrap();
    until_none_lives(&family).await;
    until("its folder is removed", async || (place.folders() == 0).then_some(())).await;
}

#[tokio::test]
async fn when_server_and_guardian_are_killed_the_next_server_cleans_up() {
    let place = Place::new();
    let node = NodeId::random();
    let (mut server, mut family) = stand_in(&place, &node).await;
    // Both stop first, so that neither sees the other die.
    let (guardian, process) = (family["guardian"], Pid::from_raw(server.id().unwrap() as i32).unwrap());
    for signal in [Signal::STOP, Signal::KILL] {
        kill_process(guardian, signal).unwrap();
        kill_process(process, signal).unwrap();
    }
    within(server.wait()).await.unwrap();
    until("the app died with its guardian", async || (!alive(family["app"])).then_some(())).await;
    assert!(alive(family["daemon"]));
    assert_eq!(place.folders(), 1);

    let settings = Settings { node, ..place.settings() };
    ProcessRuntime::open(settings).await.unwrap();
    // Without a guardian, a process without any trace is one that nobody can know.
    let hidden = family.remove("hidden").unwrap();
    assert_eq!(living(&family), [""; 0]);
    assert_eq!(place.folders(), 0);
    kill_process(hidden, Signal::KILL).unwrap();
}

/// Starts a server of its own process, with one instance.
async fn stand_in(place: &Place, node: &NodeId) -> (tokio::process::Child, BTreeMap<String, Pid>) {
    let mut server = tokio::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", ACTOR, "--nocapture"])
        .env(ROLE, "serve")
        .env(WORK, place.work())
        .env(NODE, node.as_str())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let words = loop {
        let line = within(lines.next_line()).await.unwrap().expect("the stand-in speaks before it ends");
        if let Some(words) = line.strip_prefix("family ") {
            break words.to_owned();
        }
    };
    let family = family_of(&words);
    assert_eq!(living(&family), ["app", "child", "daemon", "grandchild", "guardian", "hidden"]);
    (server, family)
}

#[tokio::test]
async fn when_a_guardian_is_killed_nothing_runs_on_and_it_is_reported() {
    let host = Host::new().await;
    let mut exits = host.runtime.exits();
    let (id, family) = host.start_family(&[]).await;
    kill_process(family["guardian"], Signal::KILL).unwrap();
    let exit = within(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.how.as_str()), (id, "its guardian was killed"));
    until_none_lives(&family).await;
    until("it is off the list", async || host.runtime.list().await.unwrap().is_empty().then_some(())).await;
    assert_eq!(host.place.folders(), 0);
}

#[tokio::test]
async fn a_guardian_that_does_not_end_is_killed_and_its_work_done() {
    let host = Host::new().await;
    let (id, family) = host.start_family(&[]).await;
    kill_process(family["guardian"], Signal::STOP).unwrap();
    within(host.runtime.stop(&id)).await.unwrap();
    assert_eq!(living(&family), [""; 0]);
    assert_eq!(host.place.folders(), 0);
}

#[tokio::test]
async fn a_dropped_runtime_ends_its_instances() {
    let host = Host::new().await;
    let (_, family) = host.start_family(&[]).await;
    drop(host.runtime);
    until_none_lives(&family).await;
}
