//! No process or folder of an instance outlives it, whichever process is killed.

use super::*;

#[tokio::test]
async fn a_stop_ends_children_grandchildren_and_daemons() {
    let fixture = ProcessFixture::new().await;
    let (id, process_tree) = fixture.start_process_tree(&[HIDDEN]).await;
    with_timeout(fixture.runtime.stop(&id)).await.unwrap();
    assert_eq!(living_names(&process_tree), [""; 0]);
    assert_eq!(fixture.folder.instance_count(), 0);
}

#[tokio::test]
async fn processes_that_an_app_left_behind_end_with_it() {
    let fixture = ProcessFixture::new().await;
    let (id, process_tree) = fixture.start_process_tree(&[HIDDEN]).await;
    let mut exits = fixture.runtime.exits();
    kill_process(process_tree["app"], Signal::TERM).unwrap();
    let exit = with_timeout(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.cause.as_str()), (id, "signal 15"));
    wait_until_all_ended(&process_tree).await;
    wait_until("its folder is removed", async || (fixture.folder.instance_count() == 0).then_some(())).await;
}

#[tokio::test]
async fn when_the_server_is_killed_no_process_survives() {
    match env::var(ROLE_VAR).as_deref() {
        Ok("listen") => return listen(),
        Ok("serve") => return serve().await,
        _ => {}
    }
    let folder = TestFolder::new();
    let node = NodeId::random();
    let (mut server, process_tree) = spawn_server(&folder, &node).await;
    server.kill().await.unwrap();
    wait_until_all_ended(&process_tree).await;
    wait_until("its folder is removed", async || (folder.instance_count() == 0).then_some(())).await;
}

#[tokio::test]
async fn when_server_and_guardian_are_killed_the_next_server_cleans_up() {
    let folder = TestFolder::new();
    let node = NodeId::random();
    let (mut server, mut process_tree) = spawn_server(&folder, &node).await;
    // Both are stopped first, so that neither sees the other die.
    let (guardian, process) = (process_tree["guardian"], Pid::from_raw(server.id().unwrap() as i32).unwrap());
    for signal in [Signal::STOP, Signal::KILL] {
        kill_process(guardian, signal).unwrap();
        kill_process(process, signal).unwrap();
    }
    with_timeout(server.wait()).await.unwrap();
    wait_until("the app died with its guardian", async || (!alive(process_tree["app"])).then_some(())).await;
    assert!(alive(process_tree["daemon"]));
    assert_eq!(folder.instance_count(), 1);

    let settings = ProcessSettings { node, ..folder.settings() };
    ProcessRuntime::open(settings).await.unwrap();
    // Without a guardian, a process without any mark of its instance cannot be found.
    let hidden = process_tree.remove("hidden").unwrap();
    assert_eq!(living_names(&process_tree), [""; 0]);
    assert_eq!(folder.instance_count(), 0);
    kill_process(hidden, Signal::KILL).unwrap();
}

/// Starts a server in a process of its own, with one instance.
async fn spawn_server(folder: &TestFolder, node: &NodeId) -> (tokio::process::Child, BTreeMap<String, Pid>) {
    let mut server = tokio::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", ROLE_TEST, "--nocapture"])
        .env(ROLE_VAR, "serve")
        .env(WORK_VAR, folder.work())
        .env(NODE_VAR, node.as_str())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let output_text = loop {
        let line = with_timeout(lines.next_line())
            .await
            .unwrap()
            .expect("the server prints its processes before it ends");
        if let Some(output_text) = line.strip_prefix("tree ") {
            break output_text.to_owned();
        }
    };
    let process_tree = parse_process_tree(&output_text);
    assert_eq!(living_names(&process_tree), ["app", "child", "daemon", "grandchild", "guardian", "hidden"]);
    (server, process_tree)
}

#[tokio::test]
async fn when_a_guardian_is_killed_no_process_survives_and_the_exit_is_reported() {
    let fixture = ProcessFixture::new().await;
    let mut exits = fixture.runtime.exits();
    let (id, process_tree) = fixture.start_process_tree(&[]).await;
    kill_process(process_tree["guardian"], Signal::KILL).unwrap();
    let exit = with_timeout(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.cause.as_str()), (id, "its guardian was killed"));
    wait_until_all_ended(&process_tree).await;
    wait_until("it is off the list", async || fixture.runtime.list().await.unwrap().is_empty().then_some(()))
        .await;
    assert_eq!(fixture.folder.instance_count(), 0);
}

#[tokio::test]
async fn a_guardian_that_hangs_is_killed_and_its_instance_is_stopped() {
    let fixture = ProcessFixture::new().await;
    let (id, process_tree) = fixture.start_process_tree(&[]).await;
    kill_process(process_tree["guardian"], Signal::STOP).unwrap();
    with_timeout(fixture.runtime.stop(&id)).await.unwrap();
    assert_eq!(living_names(&process_tree), [""; 0]);
    assert_eq!(fixture.folder.instance_count(), 0);
}

#[tokio::test]
async fn a_dropped_runtime_ends_its_instances() {
    let fixture = ProcessFixture::new().await;
    let (_, process_tree) = fixture.start_process_tree(&[]).await;
    drop(fixture.runtime);
    wait_until_all_ended(&process_tree).await;
}
