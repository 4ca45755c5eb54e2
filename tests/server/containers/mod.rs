//! The whole server with containers.

mod bake;
mod cluster;
pub(crate) mod containerd_restart;
mod crash;
mod hooks;
mod lifecycle;
mod memory;

mod heavy {
    mod leaks;
    mod soak;
}

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use try_it_now::instance::NodeId;
use try_it_now::runtime::Runtime;
use try_it_now::runtime::containerd::{ContainerdRuntime, Settings};

use crate::support::harness::{Demo, Server, eventually_within, get, request};
use crate::support::stack::{self, Stack};

/// Longest time until a pool is full, a bake included.
pub(crate) const FULL: Duration = Duration::from_secs(90);

/// A state folder and a template of a test's own. Dropped, nothing of its containers is left. To be made before the
/// servers, so that it is dropped after them.
pub(crate) struct Host {
    pub(crate) stack: Stack,
    pub(crate) folder: PathBuf,
    /// The template's name, which no other test has: the ids of its instances begin with it.
    pub(crate) template: String,
    nodes: Mutex<BTreeSet<String>>,
}

impl Host {
    /// With a template of PHP. `None` where there is no containerd.
    pub(crate) fn php() -> Option<Self> {
        Self::new(Stack::find()?, "php", "warm_up = [\"/up\"]", "path = \"/up\"\nbody = \"up\"")
    }

    /// With a template of WordPress.
    pub(crate) fn wordpress() -> Option<Self> {
        let ready = "path = \"/\"\nbody = \"Hello world!\"\ntimeout = \"180s\"";
        Self::new(Stack::find()?, "wordpress", "warm_up = [\"/\", \"/wp-login.php\"]", ready)
    }

    /// With the template of WordPress that is ready for use, whose copies have passwords of their own.
    pub(crate) fn ready_wordpress() -> Option<Self> {
        let host = Self::wordpress()?;
        let path = format!("{}/deployments/templates/wordpress.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("templates.wordpress", &format!("templates.{}", host.template));
        let image = stack::image("wordpress");
        let text = text.replace("../../target/images/wordpress.tar", image.to_str().unwrap());
        std::fs::write(host.folder.join("templates.toml"), text).unwrap();
        Some(host)
    }

    /// On this containerd.
    pub(crate) fn new(stack: Stack, image: &str, more: &str, ready: &str) -> Option<Self> {
        let template = format!("t{}", &NodeId::random().as_str()[..10]);
        let folder = std::env::temp_dir().join(format!("tin-{template}"));
        std::fs::create_dir_all(&folder).unwrap();
        let image = stack::image(image);
        let file = format!(
            "[templates.{template}]\nimage = \"oci:{}\"\nport = 80\n{more}\n[templates.{template}.ready]\n{ready}\n",
            image.display()
        );
        std::fs::write(folder.join("templates.toml"), file).unwrap();
        Some(Self { stack, folder, template, nodes: Mutex::default() })
    }

    /// What a command of the program is told.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CONTAINER_MODE", "containerd".to_owned()),
            ("CONTAINERD_ADDRESS", self.stack.address.display().to_string()),
            ("STATE_DIR", self.folder.display().to_string()),
            ("POOL_REPLENISH_THRESHOLD", "1".to_owned()),
            ("ACQUIRE_TIMEOUT", "15s".to_owned()),
        ]
    }

    /// Starts a server, or the next one in the same folder, without waiting for its pool.
    pub(crate) async fn serve(&self, variables: &[(&str, &str)]) -> Server {
        let own = self.variables();
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let all: Vec<_> = own.chain(variables.iter().copied()).collect();
        let file = self.folder.join("templates.toml");
        let arguments = ["serve", "--config", file.to_str().unwrap()];
        let server = Server::start_in(self.folder.clone(), &all, &arguments).await;
        self.nodes();
        server
    }

    /// The nodes that there are or were.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("nodes")).into_iter().flatten().flatten();
        let mut nodes = self.nodes.lock().unwrap();
        nodes.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        nodes.iter().cloned().collect()
    }

    /// The containers of this test's instances.
    pub(crate) fn containers(&self) -> BTreeSet<String> {
        let list = self.stack.ctr(&["containers", "list", "--quiet"]);
        list.lines().filter(|id| id.starts_with(&self.template)).map(str::to_owned).collect()
    }

    /// Everything of this test's instances, but for checkpoints.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        let mut found = self.stack.traces(&[&self.template]);
        // The memory that copies share belongs to a checkpoint.
        found.retain(|trace| !trace.contains(" - tmpfs try-it-now-memory "));
        found
    }

    pub(crate) async fn nothing_left(&self) {
        let last = Mutex::new(BTreeSet::new());
        let look = async || {
            *last.lock().unwrap() = self.traces();
            last.lock().unwrap().is_empty().then_some(())
        };
        let looking = eventually_within(Duration::from_secs(60), "nothing is left", look);
        let done = tokio::time::timeout(Duration::from_secs(15), looking).await;
        assert!(done.is_ok(), "{:#?}", last.lock().unwrap());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let (address, nodes, folder) = (self.stack.address.clone(), self.nodes(), self.folder.clone());
        let _ = std::fs::remove_dir_all(&folder);
        let sweep = move || {
            let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for node in nodes {
                let id = NodeId::parse(&node).unwrap();
                let settings =
                    Settings { criu: false, ..Settings::new(address.clone(), folder.join(&node), id) };
                reactor.block_on(async {
                    // Without its files a node gives up its checkpoints, and what runs, when it is opened.
                    let Ok(runtime) = ContainerdRuntime::open(settings).await else { return };
                    for id in runtime.list().await.unwrap() {
                        let _ = runtime.stop(&id).await;
                    }
                });
            }
            let _ = std::fs::remove_dir_all(&folder);
        };
        // A thread that is inside one reactor cannot wait for another.
        let _ = std::thread::spawn(sweep).join();
    }
}

/// What a command says that is run in an instance.
pub(crate) fn inside(host: &Host, demo: &Demo, words: &[&str]) -> String {
    let pipes = host.folder.join("pipes");
    let exec = ["tasks", "exec", "--fifo-dir", pipes.to_str().unwrap(), "--exec-id", "look", &demo.id];
    host.stack.ctr(&[&exec[..], words].concat())
}

/// Leaves a note in an instance of PHP.
pub(crate) async fn note(port: u16, demo: &Demo, text: &str) {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = request(port, "POST", &demo.host, "/", &form, &format!("note={text}")).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
}

/// The page of an instance of PHP: how often it was seen, and its notes, the newest first.
pub(crate) async fn page(port: u16, demo: &Demo) -> (u32, Vec<String>) {
    let answer = get(port, &demo.host, "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let visits = text.split_once("id=\"visits\">").unwrap().1.split('<').next().unwrap().parse().unwrap();
    let notes = text.lines().filter_map(|line| line.trim().strip_prefix("<li>")?.strip_suffix("</li>"));
    (visits, notes.map(str::to_owned).collect())
}

/// Gives an instance back.
pub(crate) async fn release(server: &Server, id: &str) {
    let answer = server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Ends a server as an operator does.
pub(crate) async fn stop(server: &mut Server) {
    server.signal("TERM");
    assert_eq!(server.ended().await, Some(0));
}
