//! The containerd runtime under the suite, and what only this runtime promises. The apps of these tests use the PHP
//! image, whose programs are PHP and a shell.

mod any_image;
mod checkpoint;
mod compiled_program;
mod crash;
mod database_port;
mod egress;
mod faults;
mod hooks;
mod image_configuration;
mod image_pulls;
mod isolation;
mod memory_report;
mod node_limits;
mod oci_archive;
mod random_numbers;
mod registry;
mod resource_limits;
mod restore;
mod runtime_handler;
mod sharing;
mod takeover;
mod user_namespaces;
mod walls;
mod yielding;

mod heavy {
    mod noisy_neighbours;
}

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::{Endpoint, InstanceId, NodeId};
use try_it_now::runtime::containerd::{ContainerdRuntime, ContainerdSettings, FaultInjector};
use try_it_now::runtime::{Runtime, StartMethod, Started, UserNamespaces};
use try_it_now::template::{App, ImageRef, ResourceLimits};

use crate::suites::runtime::{RuntimeUnderTest, TestApps, output, start_request, wait_until, with_timeout};
use crate::support::leak_check;
use crate::support::stack::{self, Stack};

runtime_suite!(suite, crate::containerd::runtime_under_test);

/// The revision that [`start_request`] sets.
const REVISION: u64 = 1;

/// Sends to each connection what the suite expects.
const LISTEN: &str = r#"
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    foreach (["INSTANCE_ID", "INSTANCE_URL", "INSTANCE_HOST", "EXTRA"] as $name) {
        fwrite($visitor, getenv($name) . "\n");
    }
    fclose($visitor);
}
"#;

/// A node that belongs to one test. When it is dropped, everything of it is removed, whether the test has passed or
/// failed.
struct TestNode {
    settings: ContainerdSettings,
    stack: Stack,
    /// The prefixes of the names of the images that a test has imported.
    images: Mutex<Vec<String>>,
}

impl TestNode {
    /// Returns a new node, or `None` if no containerd is running.
    fn new() -> Option<Self> {
        let stack = Stack::find()?;
        let node = NodeId::random();
        let folder = env::temp_dir().join(format!("try-it-now-containers-{node}"));
        let settings = ContainerdSettings::new(stack.address.clone(), folder, node);
        let program = Some(env!("CARGO_BIN_EXE_try-it-now").into());
        let settings = ContainerdSettings {
            search_path: Some(stack.path.clone()),
            program,
            user_namespaces: crate::support::user_namespaces::setting(),
            ..settings
        };
        Some(Self { settings, stack, images: Mutex::default() })
    }

    /// Returns a new node whose instances have user namespaces.
    fn with_user_namespaces() -> Option<Self> {
        let mut node = Self::new()?;
        node.settings.user_namespaces = UserNamespaces::Required;
        Some(node)
    }

    /// Opens a runtime on this node, as a server does when it starts.
    async fn open(&self) -> ContainerdRuntime {
        self.open_watched(FaultInjector::default()).await
    }

    /// Opens a runtime on this node whose steps call `watcher`.
    async fn open_watched(&self, watcher: FaultInjector) -> ContainerdRuntime {
        ContainerdRuntime::open(ContainerdSettings { faults: watcher, ..self.settings.clone() })
            .await
            .unwrap()
    }

    /// Lists everything of this name, which is an instance's or this node's, as containerd's own tool and the file
    /// system show it.
    fn resources_of(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for what in ["containers", "tasks", "snapshots"] {
            let text = self.stack.ctr(&[what, "list"]);
            found.extend(
                text.lines().filter(|line| line.contains(name)).map(|line| format!("{what}: {line}")),
            );
        }
        let folder = self.settings.node_dir.join("instances").join(name);
        // The mounts of all processes, because containerd has a mount namespace of its own.
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mounts = processes.filter_map(|entry| fs::read_to_string(entry.path().join("mountinfo")).ok());
        let of_it = format!("/{name}/");
        let ours = |mounts: String| mounts.lines().find(|line| line.contains(&of_it)).map(str::to_owned);
        found.extend(mounts.filter_map(ours).map(|line| format!("mount: {line}")));
        found.extend(folder.exists().then(|| folder.display().to_string()));
        found
    }

    /// Lists everything of these instances and of this node, on disk too.
    fn node_resources(&self, ids: &[String]) -> BTreeSet<String> {
        let names = ids.iter().map(String::as_str).chain([self.settings.node.as_str()]);
        let mut found = self.stack.resources_named(&names.collect::<Vec<_>>());
        found.extend(leak_check::files_below(&self.settings.node_dir.join("instances")));
        found.extend(self.id_ranges());
        found.extend(leak_check::files_below(&self.checkpoints()));
        found
    }

    /// Lists the ranges of user ids that this node's instances have.
    fn id_ranges(&self) -> Vec<String> {
        let files = fs::read_dir("/run/try-it-now/id-ranges").into_iter().flatten().flatten();
        let owners = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        owners.filter(|owner| owner.starts_with(self.settings.node.as_str())).collect()
    }

    /// Returns the digest that containerd has for an image name.
    fn digest_of(&self, image: &str) -> String {
        let images = self.stack.ctr(&["images", "list"]);
        let mut lines = images.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|names| names[0] == image).map(|names| names[2].to_owned()).unwrap_or_default()
    }

    fn checkpoints(&self) -> PathBuf {
        self.settings.node_dir.join("golden")
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.checkpoints());
        let settings = self.settings.clone();
        let clean_up = move || {
            let runtime_for_cleanup =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime_for_cleanup.block_on(async {
                // A node whose checkpoint files are missing discards their snapshots when it is opened.
                let runtime = ContainerdRuntime::open(settings).await.unwrap();
                for id in runtime.list().await.unwrap() {
                    runtime.stop(&id).await.unwrap();
                }
            });
        };
        // A thread that runs one async runtime cannot block on another.
        let _ = std::thread::spawn(clean_up).join();
        for prefix in self.images.lock().unwrap().iter() {
            let list = self.stack.ctr(&["images", "list", "--quiet"]);
            list.lines().filter(|image| image.starts_with(prefix)).for_each(|image| {
                self.stack.ctr(&["images", "remove", image]);
            });
        }
        let _ = fs::remove_dir_all(&self.settings.node_dir);
    }
}

/// Returns the runtime and the apps for the suite.
pub(super) async fn runtime_under_test() -> Option<RuntimeUnderTest> {
    let test_node = TestNode::new()?;
    let apps = TestApps {
        listening: php(LISTEN),
        talking: shell("echo hello; exec sleep 600"),
        ending: shell("exit 3"),
        missing: app(&["no-such-program"]),
    };
    Some(RuntimeUnderTest {
        runtime: Arc::new(test_node.open().await),
        apps,
        _keep_alive: Box::new(test_node),
    })
}

fn app(command: &[&str]) -> App {
    App {
        image: Some(ImageRef::Tar(stack::image_archive("php"))),
        port: 8080,
        ..crate::suites::runtime::app(command)
    }
}

fn shell(script: &str) -> App {
    app(&["sh", "-c", script])
}

fn php(code: &str) -> App {
    app(&["php", "-r", code])
}

/// Keeps a count in its memory and notes in a file, and executes the one line that each visitor sends.
const COUNTER_APP: &str = r#"
$count = 0;
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    switch ($words[0]) {
        case "add": $count++; break;
        case "note": file_put_contents("/notes", $words[1], FILE_APPEND); break;
        case "fill":
            $written = @file_put_contents("/filled", str_repeat("x", $words[1] << 20));
            fwrite($visitor, $written === false ? "full\n" : "written\n");
            fclose($visitor);
            continue 2;
        case "reach":
            $there = @stream_socket_client("tcp://$words[1]", $code, $why, 2);
            fwrite($visitor, $there ? "reached\n" : "unreachable: $why\n");
            if ($there) fclose($there);
            fclose($visitor);
            continue 2;
    }
    fwrite($visitor, $count . " " . @file_get_contents("/notes") . "\n");
    fclose($visitor);
}
"#;

/// Sends a command to the app and returns its answer.
async fn send_command(runtime: &dyn Runtime, counter: Endpoint, names: &str) -> String {
    let answer = wait_until("it answers", async || {
        let mut stream = runtime.connect(counter).await.ok()?;
        stream.write_all(format!("{names}\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    });
    answer.await.trim_end().to_owned()
}

/// Starts an app and returns its id and how it was started.
async fn start(runtime: &dyn Runtime, app: &App) -> (InstanceId, Started) {
    let request = start_request(app);
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    (request.id, started)
}

/// Bakes the checkpoint of a counter app that has counted one visit and has one note.
async fn bake(runtime: &dyn Runtime) -> App {
    bake_limited(runtime, ResourceLimits::default()).await
}

async fn bake_limited(runtime: &dyn Runtime, limits: ResourceLimits) -> App {
    let counter = App { limits, ..php(COUNTER_APP) };
    let (id, started) = start(runtime, &counter).await;
    assert_eq!(started.method, StartMethod::Cold);
    send_command(runtime, started.endpoint, "add").await;
    assert_eq!(send_command(runtime, started.endpoint, "note old").await, "1 old");
    with_timeout(runtime.bake(&id, REVISION, &counter)).await.unwrap();
    counter
}
