//! What the containerd runtime promises beyond the suite. Its apps are made of the PHP image, whose programs are PHP and
//! a shell.

mod checkpoint;
mod crash;
mod egress;
mod faults;
mod hooks;
mod image_pulls;
mod isolation;
mod memory_report;
mod oci_archive;
mod registry;
mod resource_limits;
mod restore;
mod sharing;
mod takeover;

mod heavy {
    mod noisy_neighbours;
}

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::{Endpoint, InstanceId, NodeId};
use try_it_now::runtime::containerd::{ContainerdRuntime, Settings, Watcher};
use try_it_now::runtime::{Runtime, StartMethod, Started};
use try_it_now::template::{App, Image, ResourceLimits};

use crate::suites::runtime::{Apps, Subject, order, output, until, within};
use crate::support::leak_check;
use crate::support::stack::{self, Stack};

runtime_suite!(suite, crate::containerd::subject);

/// The one that [`order`] names.
const REVISION: u64 = 1;

/// Says to each connection what the suite wants to hear.
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

/// A node of a test's own. Dropped, nothing of it is left, whatever the test has done or failed to do.
struct Place {
    settings: Settings,
    stack: Stack,
    /// What the names of the images begin with that a test has brought here.
    images: Mutex<Vec<String>>,
}

impl Place {
    /// `None` where there is no containerd.
    fn new() -> Option<Self> {
        let stack = Stack::find()?;
        let node = NodeId::random();
        let folder = env::temp_dir().join(format!("try-it-now-containers-{node}"));
        let settings = Settings::new(stack.address.clone(), folder, node);
        let program = Some(env!("CARGO_BIN_EXE_try-it-now").into());
        let settings = Settings { path: Some(stack.path.clone()), program, ..settings };
        Some(Self { settings, stack, images: Mutex::default() })
    }

    /// A runtime on this node, as of a server that was just started.
    async fn open(&self) -> ContainerdRuntime {
        self.open_watched(Watcher::default()).await
    }

    /// The same with somebody who is told of its steps.
    async fn open_watched(&self, watcher: Watcher) -> ContainerdRuntime {
        ContainerdRuntime::open(Settings { watcher, ..self.settings.clone() }).await.unwrap()
    }

    /// Everything that there is of this name, an instance's or this node's, as containerd's own tool and the file system
    /// tell.
    fn all_of(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for what in ["containers", "tasks", "snapshots"] {
            let text = self.stack.ctr(&[what, "list"]);
            found.extend(
                text.lines().filter(|line| line.contains(name)).map(|line| format!("{what}: {line}")),
            );
        }
        let folder = self.settings.folder.join("instances").join(name);
        // Whichever of them sees it: containerd has mounts of its own.
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mounts = processes.filter_map(|entry| fs::read_to_string(entry.path().join("mountinfo")).ok());
        let of_it = format!("/{name}/");
        let ours = |mounts: String| mounts.lines().find(|line| line.contains(&of_it)).map(str::to_owned);
        found.extend(mounts.filter_map(ours).map(|line| format!("mount: {line}")));
        found.extend(folder.exists().then(|| folder.display().to_string()));
        found
    }

    /// Everything of these instances and of this node, on disk too.
    fn traces(&self, ids: &[String]) -> BTreeSet<String> {
        let words = ids.iter().map(String::as_str).chain([self.settings.node.as_str()]);
        let mut found = self.stack.traces(&words.collect::<Vec<_>>());
        found.extend(leak_check::files(&self.settings.folder.join("instances")));
        found.extend(leak_check::files(&self.checkpoints()));
        found
    }

    /// What containerd has by an image name.
    fn digest_of(&self, image: &str) -> String {
        let images = self.stack.ctr(&["images", "list"]);
        let mut lines = images.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|words| words[0] == image).map(|words| words[2].to_owned()).unwrap_or_default()
    }

    fn checkpoints(&self) -> PathBuf {
        self.settings.folder.join("golden")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.checkpoints());
        let settings = self.settings.clone();
        let sweep = move || {
            let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            reactor.block_on(async {
                // Without its checkpoints' files a node gives up their snapshots when it is opened.
                let runtime = ContainerdRuntime::open(settings).await.unwrap();
                for id in runtime.list().await.unwrap() {
                    runtime.stop(&id).await.unwrap();
                }
            });
        };
        // A thread that is inside one reactor cannot wait for another.
        let _ = std::thread::spawn(sweep).join();
        for brought in self.images.lock().unwrap().iter() {
            let list = self.stack.ctr(&["images", "list", "--quiet"]);
            list.lines().filter(|image| image.starts_with(brought)).for_each(|image| {
                self.stack.ctr(&["images", "remove", image]);
            });
        }
        let _ = fs::remove_dir_all(&self.settings.folder);
    }
}

/// For the suite.
pub(super) async fn subject() -> Option<Subject> {
    let place = Place::new()?;
    let apps = Apps {
        listening: php(LISTEN),
        talking: shell("echo hello; exec sleep 600"),
        ending: shell("exit 3"),
        missing: app(&["no-such-program"]),
    };
    Some(Subject { runtime: Arc::new(place.open().await), apps, _place: Box::new(place) })
}

fn app(command: &[&str]) -> App {
    App { image: Some(Image::Tar(stack::image("php"))), port: 8080, ..crate::suites::runtime::app(command) }
}

fn shell(script: &str) -> App {
    app(&["sh", "-c", script])
}

fn php(code: &str) -> App {
    app(&["php", "-r", code])
}

/// Keeps a count in its memory and notes in a file, and does what each visitor's one line says.
const KEEPER: &str = r#"
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

/// Tells the keeper something, and returns what it answers.
async fn tell(runtime: &dyn Runtime, keeper: Endpoint, words: &str) -> String {
    let answer = until("it answers", async || {
        let mut stream = runtime.connect(keeper).await.ok()?;
        stream.write_all(format!("{words}\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    });
    answer.await.trim_end().to_owned()
}

/// Starts an app and says how that was done.
async fn start(runtime: &dyn Runtime, app: &App) -> (InstanceId, Started) {
    let order = order(app);
    let started = within(runtime.start(&order)).await.unwrap();
    (order.id, started)
}

/// Makes the golden checkpoint of a keeper that has counted one visit and has one note.
async fn bake(runtime: &dyn Runtime) -> App {
    bake_limited(runtime, ResourceLimits::default()).await
}

async fn bake_limited(runtime: &dyn Runtime, limits: ResourceLimits) -> App {
    let keeper = App { limits, ..php(KEEPER) };
    let (id, started) = start(runtime, &keeper).await;
    assert_eq!(started.how, StartMethod::Cold);
    tell(runtime, started.endpoint, "add").await;
    assert_eq!(tell(runtime, started.endpoint, "note old").await, "1 old");
    within(runtime.bake(&id, REVISION, &keeper)).await.unwrap();
    keeper
}
