//! An instance from its acquire to its removal.

use tokio::process::Command;
use try_it_now::runtime::engine::EngineKind;

use super::{EngineHost, PHP_READY};
use crate::containers::{FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::engine_stack::{engine_socket, with_each_engine};
use crate::support::harness::websocket::{echo, open, receive};
use crate::support::harness::{AcquiredInstance, RawConnection, get};

with_each_engine! {
    visitors_get_started_instances_of_their_own_and_a_release_removes_the_container
    an_instance_has_its_own_files_and_values_before_it_is_ready
    a_websocket_reaches_the_app
}

async fn visitors_get_started_instances_of_their_own_and_a_release_removes_the_container(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    post_note(server.port, &a, "mine").await;
    assert_eq!(read_page(server.port, &a).await, (1, vec!["mine".to_owned()]));
    assert_eq!(read_page(server.port, &b).await, (1, vec![]));
    assert!(a.host.starts_with(&a.id), "{a:?}");

    release(&server, &a.id).await;
    assert_eq!(get(server.port, &a.host, "/").await.status, 404);
    assert_eq!(read_page(server.port, &b).await.0, 2);
    let (assigned, _) = host.settled(&server, 2).await;
    assert_eq!(assigned, [b.id.clone()].into());
    release(&server, &b.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

async fn an_instance_has_its_own_files_and_values_before_it_is_ready(kind: EngineKind) {
    let Some(socket) = engine_socket(kind) else { return };
    let template = format!(
        "{PHP_READY}[templates.php.hooks]\nrandom = {{ KEY = 20 }}\ncredentials = \"{{KEY}}\"\n\
         files = {{ \"/app/public/own.css\" = \"{{INSTANCE_ID}} {{KEY}}\" }}\n\
         [[templates.php.hooks.exec]]\ncommand = [\"sh\", \"-c\", \"echo $INSTANCE_ID $1 >/app/public/style.css\", \"own\", \"{{KEY}}\"]\n"
    );
    let host = EngineHost::new(kind, socket, "php", &template);
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let acquired = server.call("POST", "/api/v1/demo/acquire", "").await.json();
        let instance = AcquiredInstance::from_json(&acquired);
        let key = acquired["credentials"].as_str().unwrap().to_owned();
        // The app serves the file that the command wrote, and runs as the instance that the record names.
        let served = get(server.port, &instance.host, "/style.css").await.text();
        assert_eq!(served, format!("{} {key}\n", instance.id));
        keys.push(key);
        release(&server, &instance.id).await;
    }
    assert!(keys[0] != keys[1] && keys.iter().all(|key| key.len() == 20), "{keys:?}");
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

async fn a_websocket_reaches_the_app(kind: EngineKind) {
    let Some(socket) = engine_socket(kind) else { return };
    let host = EngineHost::new(kind, socket, "sample", "");
    let mut server = host.start_server(&[("POOL_TARGET_SIZE", "1")]).await.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    let shown = get(server.port, &instance.host, "/whoami").await.json();
    assert_eq!(shown["id"], instance.id.as_str());
    let mut live = open(RawConnection::connect(server.port).await, &instance).await;
    assert_eq!(receive(&mut live, "hello").await["id"], instance.id.as_str());
    echo(&mut live, "a word").await;
    drop(live);
    release(&server, &instance.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

// Podman makes a folder in the place of a file that it does not see, and refuses nothing.
#[tokio::test]
async fn a_docker_that_sees_another_folder_starts_instances_all_the_same() {
    let Some(host) = EngineHost::php(EngineKind::Docker) else { return };
    let mut apart = Command::new("unshare");
    apart.args(["--mount", env!("CARGO_BIN_EXE_try-it-now")]);
    let mut server = host.start_server_by(apart, &[]).await.full_within(FULL_TIMEOUT).await;
    // Only this server sees what is mounted here, as it is with an engine whose socket a service manager opened.
    let files = host.folder.join("nodes").join(server.node()).join("engine-files");
    assert!(files.is_dir(), "{files:?}");
    let pid = server.pid().to_string();
    let mut cover = Command::new("nsenter");
    cover.args(["--target", &pid, "--mount", "mount", "-t", "tmpfs", "tmpfs", files.to_str().unwrap()]);
    assert!(cover.status().await.unwrap().success());
    let covered: Vec<AcquiredInstance> = [server.acquire().await, server.acquire().await].into();
    let (_, ready) = host.settled(&server, 2).await;
    let uncovered = server.acquire().await;
    assert!(ready.contains(&uncovered.id), "{uncovered:?} of {ready:?}");
    assert_eq!(read_page(server.port, &uncovered).await, (1, vec![]));
    let log = server.log();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains("cannot mount files")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("STATE_DIR"), "{warnings:?}");
    for instance in covered.iter().chain([&uncovered]) {
        release(&server, &instance.id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
