//! The container image of the server, in Docker: it runs without rights, reaps as process 1, starts containers beside itself,
//! and leaves nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    ImportImageOptions, LogsOptionsBuilder, RemoveContainerOptions, RemoveContainerOptionsBuilder,
    TopOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use try_it_now::instance::NodeId;
use try_it_now::runtime::CleanScope;
use try_it_now::runtime::engine::{EngineKind, clean};

use super::FULL_TIMEOUT;
use crate::support::engine_stack::{containers_of, engine, engine_socket};
use crate::support::harness::{AcquiredInstance, eventually, eventually_within, request};
use crate::support::skip::skip;
use crate::support::stack::image_archive;

/// The user of the image.
const USER: &str = "999";

/// Docker, with the image of the program under test.
struct Engine {
    docker: Docker,
    socket: PathBuf,
}

impl Engine {
    /// Loads the image. Returns `None` and prints why if the engine or the image is missing.
    async fn with_image() -> Option<Self> {
        let socket = engine_socket(EngineKind::Docker)?;
        let archive = image_archive("server");
        if !archive.is_file() {
            skip("the image of the server is missing (run `make images`)");
            return None;
        }
        let docker = engine(&socket).await;
        let body = bollard::body_full(std::fs::read(archive).unwrap().into());
        let loaded = docker.import_image(ImportImageOptions::default(), body, None);
        let said: Vec<_> = loaded.try_collect().await.unwrap();
        let names_image = |text: &str| text.contains("Loaded image: try-it-now:latest");
        assert!(said.iter().any(|info| info.stream.as_deref().is_some_and(names_image)), "{said:?}");
        Some(Self { docker, socket })
    }

    /// Starts the server with these variables, arguments and mounts. It has the network of the host and a port that the
    /// system chooses.
    async fn start(&self, variables: &[&str], arguments: &[&str], host: HostConfig) -> ServerContainer<'_> {
        let common = ["SERVER_HOST=127.0.0.1", "SERVER_PORT=0", "POOL_TARGET_SIZE=1", "POOL_MIN_SIZE=0"];
        let variables = common.iter().chain(variables);
        let body = ContainerCreateBody {
            image: Some("try-it-now".to_owned()),
            env: Some(variables.map(|&text| text.to_owned()).collect()),
            cmd: Some(arguments.iter().map(|&text| text.to_owned()).collect()),
            host_config: Some(HostConfig { network_mode: Some("host".to_owned()), ..host }),
            ..Default::default()
        };
        let id = self.docker.create_container(None, body).await.unwrap().id;
        let container = ServerContainer { engine: self, id, is_removed: false };
        self.docker.start_container(&container.id, None).await.unwrap();
        container
    }
}

/// A container of the image. [`ServerContainer::remove`] removes it. When a test fails before that, dropping it removes it and
/// the containers of its node.
struct ServerContainer<'a> {
    engine: &'a Engine,
    id: String,
    is_removed: bool,
}

impl Drop for ServerContainer<'_> {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let (id, socket) = (self.id.clone(), self.engine.socket.clone());
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let docker = engine(&socket).await;
                let log = log_of(&docker, &id).await;
                docker.remove_container(&id, Some(removal())).await.unwrap();
                if let Some(node) = listening_line(&log) {
                    let node = NodeId::parse(node["node"].as_str().unwrap()).unwrap();
                    clean(EngineKind::Docker, &[socket], &CleanScope::Nodes(vec![node])).await.unwrap();
                }
            });
        };
        // A thread that runs one async runtime cannot block on another.
        let _ = std::thread::spawn(remove).join();
    }
}

async fn log_of(docker: &Docker, container: &str) -> String {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
    let lines = docker.logs(container, Some(options));
    lines.map(|line| line.unwrap().to_string()).collect().await
}

/// Returns the line in which a server logs its port and its node.
fn listening_line(log: &str) -> Option<Value> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["port"].is_u64() && line["node"].is_string())
}

/// Returns what the removal of a container removes too: its processes and its volumes.
fn removal() -> RemoveContainerOptions {
    RemoveContainerOptionsBuilder::new().force(true).v(true).build()
}

impl ServerContainer<'_> {
    async fn log(&self) -> String {
        log_of(&self.engine.docker, &self.id).await
    }

    /// Returns what the server logs when it listens.
    async fn listening(&self) -> Value {
        eventually("the server listens", async || listening_line(&self.log().await)).await
    }

    /// Acquires an instance when one is ready, and reads its page.
    async fn visit(&self) -> AcquiredInstance {
        let port = u16::try_from(self.listening().await["port"].as_u64().unwrap()).unwrap();
        let instance = eventually_within(FULL_TIMEOUT, "an instance is ready", async || {
            let answer = request(port, "POST", "localhost", "/api/v1/demo/acquire", &[], "").await;
            (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
        })
        .await;
        let page = request(port, "GET", &instance.host, "/entries", &[], "").await;
        assert_eq!((page.status, &page.json()["entries"]), (200, &json!([])));
        instance
    }

    /// Returns its processes, each with id, parent, user, state and command.
    async fn processes(&self) -> Vec<[String; 5]> {
        let options = TopOptionsBuilder::new().ps_args("-eo pid,ppid,uid,stat,args").build();
        let top = self.engine.docker.top_processes(&self.id, Some(options)).await.unwrap();
        top.processes.unwrap().into_iter().map(|fields| fields.try_into().unwrap()).collect()
    }

    /// Stops it as `docker stop` does. Returns the exit status of its process 1.
    async fn stop(&self) -> Option<i64> {
        self.engine.docker.stop_container(&self.id, None).await.unwrap();
        self.exit_status().await
    }

    async fn exit_status(&self) -> Option<i64> {
        eventually("the container has ended", async || {
            let state = self.engine.docker.inspect_container(&self.id, None).await.unwrap().state.unwrap();
            (state.running == Some(false)).then_some(state.exit_code)
        })
        .await
    }

    async fn remove(mut self) {
        self.engine.docker.remove_container(&self.id, Some(removal())).await.unwrap();
        self.is_removed = true;
    }
}

#[tokio::test]
async fn by_default_the_image_serves_processes_without_rights_and_reaps_what_they_leave() {
    let Some(engine) = Engine::with_image().await else { return };
    let server = engine.start(&[], &["serve"], HostConfig::default()).await;
    server.visit().await;
    let processes = server.processes().await;
    assert!(processes.len() >= 4, "process 1, the server, a guardian, an app: {processes:?}");
    assert!(processes.iter().all(|[_, _, user, ..]| user == USER), "{processes:?}");
    let guardians = processes.iter().filter(|[.., command]| command.contains("internal-guardian"));
    let guardians: BTreeSet<_> = guardians.map(|[pid, ..]| pid.clone()).collect();
    for pid in &guardians {
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    eventually("the apps of dead guardians are reaped, and others run", async || {
        let now = server.processes().await;
        let are_gone =
            now.iter().all(|[pid, _, _, state, _]| !guardians.contains(pid) && !state.starts_with('Z'));
        let has_another = now.iter().any(|[.., command]| command.contains("internal-guardian"));
        (are_gone && has_another).then_some(())
    })
    .await;
    assert_eq!(server.stop().await, Some(0), "{}", server.log().await);
    server.remove().await;
}

#[tokio::test]
async fn with_the_socket_of_docker_the_image_starts_the_containers_of_the_compose_file_and_cleans_them_up() {
    let Some(engine) = Engine::with_image().await else { return };
    let folder = std::env::temp_dir().join(format!("try-it-now-image-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    let state = folder.join("state");
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/compose-templates.toml");
    std::fs::create_dir(&state).unwrap();
    let user = USER.parse().ok();
    std::os::unix::fs::chown(&state, user, user).unwrap();
    let group = std::fs::metadata(&engine.socket).unwrap().gid().to_string();
    let mount = |from: &Path, to: &str| format!("{}:{to}", from.display());
    let host = HostConfig {
        binds: Some(vec![
            mount(&engine.socket, "/var/run/docker.sock"),
            mount(&templates, "/etc/try-it-now/templates.toml:ro"),
            mount(&state, "/var/lib/try-it-now"),
        ]),
        group_add: Some(vec![group]),
        ..Default::default()
    };
    let arguments = ["serve", "--config", "/etc/try-it-now/templates.toml"];
    let server = engine.start(&["CONTAINER_MODE=docker"], &arguments, host.clone()).await;
    server.visit().await;
    let node = server.listening().await["node"].as_str().unwrap().to_owned();
    assert!(!containers_of(&engine.socket, &node).await.is_empty());
    assert_eq!(server.processes().await.len(), 2, "process 1 and the server: the instances are containers");
    assert_eq!(server.stop().await, Some(0), "{}", server.log().await);
    server.remove().await;

    let cleaner = engine.start(&["CONTAINER_MODE=docker"], &["clean"], host).await;
    assert_eq!(cleaner.exit_status().await, Some(0), "{}", cleaner.log().await);
    cleaner.remove().await;
    assert_eq!(containers_of(&engine.socket, &node).await.len(), 0);
    std::fs::remove_dir_all(&folder).unwrap();
}
