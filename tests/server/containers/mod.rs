//! The server as a whole, with containers.

mod bake;
mod clean;
mod cluster;
mod containerd_restart;
mod crash;
mod debian_package;
mod handover;
mod handover_http2;
mod handover_tls;
mod hooks;
mod image_defaults;
mod lifecycle;
mod limits;
mod memory;
mod server_image;
mod shops;
mod try_image;
mod unfit_checkpoints;

mod heavy {
    mod handovers;
    mod leaks;
    mod mixed;
    mod soak;
    mod wordpress;
}

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use try_it_now::instance::NodeId;
use try_it_now::runtime::Runtime;
use try_it_now::runtime::containerd::{ContainerdRuntime, ContainerdSettings};

use crate::support::harness::{AcquiredInstance, Server, eventually_within, get, request};
use crate::support::stack::{self, Stack};

/// The longest time until a pool is full, including a bake.
pub(crate) const FULL_TIMEOUT: Duration = Duration::from_secs(90);

/// A state folder and a template that belong to one test. When this is dropped, everything of its containers is
/// removed. It must be created before the servers, so that it is dropped after them.
pub(crate) struct ContainerHost {
    pub(crate) stack: Stack,
    pub(crate) folder: PathBuf,
    /// The name of the template, which no other test uses. The ids of its instances begin with it.
    pub(crate) template: String,
    nodes: Mutex<BTreeSet<String>>,
}

impl ContainerHost {
    /// Uses a template of PHP. Returns `None` if no containerd is running.
    pub(crate) fn php() -> Option<Self> {
        Self::new(Stack::find()?, "php", "warm_up = [\"/up\"]", "path = \"/up\"\nbody = \"up\"")
    }

    /// Uses a template of WordPress. Returns `None` if no containerd is running.
    pub(crate) fn wordpress() -> Option<Self> {
        let ready = "path = \"/\"\nbody = \"Hello world!\"\ntimeout = \"180s\"";
        Self::new(Stack::find()?, "wordpress", "warm_up = [\"/\", \"/wp-login.php\"]", ready)
    }

    /// Uses the shipped template of WordPress, whose instances have passwords of their own. Returns `None` if no
    /// containerd is running.
    pub(crate) fn wordpress_template() -> Option<Self> {
        let host = Self::wordpress()?;
        let path = format!("{}/deployments/templates/wordpress.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("templates.wordpress", &format!("templates.{}", host.template));
        let image = stack::image_archive("wordpress");
        let text = text.replace("../../target/images/wordpress.tar", image.to_str().unwrap());
        std::fs::write(host.folder.join("templates.toml"), text).unwrap();
        Some(host)
    }

    /// Uses this containerd, image, template text and ready check.
    pub(crate) fn new(stack: Stack, image: &str, more: &str, ready: &str) -> Option<Self> {
        let template = format!("t{}", &NodeId::random().as_str()[..10]);
        let folder = std::env::temp_dir().join(format!("tin-{template}"));
        std::fs::create_dir_all(&folder).unwrap();
        let image = stack::image_archive(image);
        let file = format!(
            "[templates.{template}]\nimage = \"oci:{}\"\nport = 80\n{more}\n[templates.{template}.ready]\n{ready}\n",
            image.display()
        );
        std::fs::write(folder.join("templates.toml"), file).unwrap();
        Some(Self { stack, folder, template, nodes: Mutex::default() })
    }

    /// Returns the environment variables for a command of the program.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CONTAINER_MODE", "containerd".to_owned()),
            ("CONTAINERD_ADDRESS", self.stack.address.display().to_string()),
            ("STATE_DIR", self.folder.display().to_string()),
            ("POOL_REPLENISH_THRESHOLD", "1".to_owned()),
            ("ACQUIRE_TIMEOUT", "15s".to_owned()),
            ("USER_NAMESPACES", env::var("USER_NAMESPACES").unwrap_or_else(|_| "auto".to_owned())),
        ]
    }

    /// Starts a server, or the next one in the same folder. Does not wait for its pool.
    pub(crate) async fn start_server(&self, variables: &[(&str, &str)]) -> Server {
        let own = self.environment();
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let all: Vec<_> = own.chain(variables.iter().copied()).collect();
        let file = self.folder.join("templates.toml");
        let arguments = ["serve", "--config", file.to_str().unwrap()];
        let server = Server::start_in(self.folder.clone(), &all, &arguments).await;
        self.nodes();
        server
    }

    /// Lists the nodes of all servers so far.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("nodes")).into_iter().flatten().flatten();
        let mut nodes = self.nodes.lock().unwrap();
        nodes.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        nodes.iter().cloned().collect()
    }

    /// Lists the containers of this test's instances.
    pub(crate) fn containers(&self) -> BTreeSet<String> {
        let list = self.stack.ctr(&["containers", "list", "--quiet"]);
        list.lines().filter(|id| id.starts_with(&self.template)).map(str::to_owned).collect()
    }

    /// Lists everything of this test's instances except checkpoints.
    pub(crate) fn resources(&self) -> BTreeSet<String> {
        let mut found = self.stack.resources_named(&[&self.template]);
        // Shared memory belongs to a checkpoint.
        found.retain(|trace| !trace.contains(" - tmpfs try-it-now-memory "));
        found
    }

    pub(crate) async fn assert_nothing_left(&self) {
        let last = Mutex::new(BTreeSet::new());
        let poll = async || {
            *last.lock().unwrap() = self.resources();
            last.lock().unwrap().is_empty().then_some(())
        };
        let polling = eventually_within(Duration::from_secs(60), "nothing is left", poll);
        let done = tokio::time::timeout(Duration::from_secs(15), polling).await;
        assert!(done.is_ok(), "{:#?}", last.lock().unwrap());
    }
}

impl Drop for ContainerHost {
    fn drop(&mut self) {
        let (address, nodes, folder) = (self.stack.address.clone(), self.nodes(), self.folder.clone());
        let _ = std::fs::remove_dir_all(&folder);
        let clean_up = move || {
            let runtime_for_cleanup =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for node in nodes {
                let id = NodeId::parse(&node).unwrap();
                let settings = ContainerdSettings {
                    may_restore: false,
                    ..ContainerdSettings::new(address.clone(), folder.join(&node), id)
                };
                runtime_for_cleanup.block_on(async {
                    // A node whose files are missing discards its checkpoints and can stop what runs when it is opened.
                    let Ok(runtime) = ContainerdRuntime::open(settings).await else { return };
                    for id in runtime.list().await.unwrap() {
                        let _ = runtime.stop(&id).await;
                    }
                });
            }
            let _ = std::fs::remove_dir_all(&folder);
        };
        // A thread that runs one async runtime cannot block on another.
        let _ = std::thread::spawn(clean_up).join();
    }
}

/// Runs a command in an instance by runc, and returns what it wrote. `ctr` is not asked: up to containerd 2.1 it may give
/// up a pipe that it has not read yet (containerd's pull request 13931).
pub(crate) fn exec_in(host: &ContainerHost, instance: &AcquiredInstance, words: &[&str]) -> String {
    let state = format!("/proc/{}/root/run/containerd/runc/try-it-now", host.stack.daemon_pid());
    let mut runc = Command::new("runc");
    runc.env("PATH", &host.stack.path).args(["--root", &state, "exec", &instance.id]).args(words);
    let output = runc.output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Posts a note to an instance of PHP.
pub(crate) async fn post_note(port: u16, instance: &AcquiredInstance, text: &str) {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = request(port, "POST", &instance.host, "/", &form, &format!("note={text}")).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
}

/// Reads the page of an instance of PHP: the number of visits and the notes, the newest first.
pub(crate) async fn read_page(port: u16, instance: &AcquiredInstance) -> (u32, Vec<String>) {
    let answer = get(port, &instance.host, "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let visits = text.split_once("id=\"visits\">").unwrap().1.split('<').next().unwrap().parse().unwrap();
    let notes = text.lines().filter_map(|line| line.trim().strip_prefix("<li>")?.strip_suffix("</li>"));
    (visits, notes.map(str::to_owned).collect())
}

/// Releases an instance.
pub(crate) async fn release(server: &Server, id: &str) {
    let answer = server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Shuts a server down as an operator does.
pub(crate) async fn shut_down(server: &mut Server) {
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().await, Some(0));
}
