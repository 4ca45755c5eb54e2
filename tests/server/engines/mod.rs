//! The server as a whole, with containers of Docker and of Podman.

mod cleanup_jobs;
mod crash;
mod lifecycle;
mod memory;
mod outage;
mod run_image;
pub(crate) mod shops;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use tokio::process::Command;
use try_it_now::instance::NodeId;
use try_it_now::runtime::engine::EngineKind;

use crate::containers::FULL_TIMEOUT;
use crate::support::engine_stack::{containers_of, engine_socket, remove_nodes, socket_variable};
use crate::support::harness::{Server, eventually_within};
use crate::support::stack::image_archive;

/// The ready check of the PHP image.
const PHP_READY: &str = "ready = { path = \"/up\", body = \"up\" }\n";

/// A state folder and a template that belong to one test. When this is dropped, everything of its containers is
/// removed. It must be created before the servers, so that it is dropped after them.
pub(crate) struct EngineHost {
    pub(crate) kind: EngineKind,
    /// The engine's own socket.
    pub(crate) socket: PathBuf,
    pub(crate) folder: PathBuf,
    nodes: Mutex<BTreeSet<String>>,
}

impl EngineHost {
    /// Uses a template of PHP. Returns `None` if the engine does not run.
    pub(crate) fn php(kind: EngineKind) -> Option<Self> {
        Some(Self::new(kind, engine_socket(kind)?, "php", PHP_READY))
    }

    /// Uses this engine, image and further text of the template.
    pub(crate) fn new(kind: EngineKind, socket: PathBuf, image: &str, more: &str) -> Self {
        let archive = image_archive(image);
        let file = format!("[templates.{image}]\nimage = \"oci:{}\"\nport = 80\n{more}", archive.display());
        Self::with_file(kind, socket, &file)
    }

    /// Uses this engine and this file of templates.
    pub(crate) fn with_file(kind: EngineKind, socket: PathBuf, file: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tin-{}", NodeId::random()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("templates.toml"), file).unwrap();
        Self { kind, socket, folder, nodes: Mutex::default() }
    }

    /// Starts a server, or the next one in the same folder. Does not wait for its pool.
    pub(crate) async fn start_server(&self, variables: &[(&str, &str)]) -> Server {
        self.start_server_by(Command::new(env!("CARGO_BIN_EXE_try-it-now")), variables).await
    }

    /// Starts a server by a command to which the arguments are appended. Does not wait for its pool.
    pub(crate) async fn start_server_by(&self, command: Command, variables: &[(&str, &str)]) -> Server {
        let (folder, socket) =
            (self.folder.display().to_string(), format!("unix://{}", self.socket.display()));
        let own = [
            ("CONTAINER_MODE", self.kind.name()),
            (socket_variable(self.kind), &socket),
            ("STATE_DIR", &folder),
            ("POOL_REPLENISH_THRESHOLD", "1"),
            ("ACQUIRE_TIMEOUT", "15s"),
        ];
        let file = self.folder.join("templates.toml");
        let arguments = ["serve", "--config", file.to_str().unwrap()];
        let variables = [&own, variables].concat();
        let server = Server::spawn(command, self.folder.clone(), &variables, &arguments).await;
        self.nodes();
        server
    }

    /// Lists the nodes of all servers so far.
    fn nodes(&self) -> Vec<NodeId> {
        let entries = std::fs::read_dir(self.folder.join("nodes")).into_iter().flatten().flatten();
        let mut nodes = self.nodes.lock().unwrap();
        nodes.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        nodes.iter().map(|name| NodeId::parse(name).unwrap()).collect()
    }

    /// Lists the instances of this test that have a container.
    pub(crate) async fn containers(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for node in self.nodes() {
            found.extend(containers_of(&self.socket, node.as_str()).await);
        }
        found
    }

    pub(crate) async fn assert_nothing_left(&self) {
        eventually_within(FULL_TIMEOUT, "no container is left", async || {
            self.containers().await.is_empty().then_some(())
        })
        .await;
    }

    /// Waits until each container of this test has a record that is ready or assigned, and each such record a container.
    /// Returns the assigned instances and the ready ones.
    pub(crate) async fn settled(
        &self,
        server: &Server,
        ready: usize,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        eventually_within(FULL_TIMEOUT, "each container has a record", async || {
            // Only when the numbers agree: what one client may ask of unknown instances is limited.
            let stats = server.stats().await;
            let containers = containers_of(&self.socket, server.node()).await;
            let assigned = containers.len().checked_sub(ready)?;
            if stats["ready"] != ready || stats["warming"] != 0 || stats["assigned"] != assigned {
                return None;
            }
            let (mut of_visitors, mut waiting) = (BTreeSet::new(), BTreeSet::new());
            for id in containers {
                let found = server.call("GET", &format!("/api/v1/demo/{id}"), "").await;
                match found.json()["state"].as_str() {
                    Some("assigned") => of_visitors.insert(id),
                    Some("ready") => waiting.insert(id),
                    _ => return None,
                };
            }
            (waiting.len() == ready).then_some((of_visitors, waiting))
        })
        .await
    }
}

impl Drop for EngineHost {
    fn drop(&mut self) {
        remove_nodes(self.kind, self.socket.clone(), self.nodes());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
