//! What the containerd runtime promises beyond the suite. Its apps are made of the PHP image, whose programs are PHP and
//! a shell.

mod bakes;
mod egress;
mod limits;
mod takeover;
mod walls;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::{Endpoint, InstanceId, NodeId};
use try_it_now::runtime::containerd::{ContainerdRuntime, Settings};
use try_it_now::runtime::egress::Outside;
use try_it_now::runtime::{App, Image, Runtime, StartMethod, Started};

use super::{Apps, Subject, order, output, until, within};
use crate::stack::{self, Stack};

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
}

impl Place {
    /// `None` where there is no containerd.
    fn new() -> Option<Self> {
        let stack = Stack::find()?;
        let node = NodeId::random();
        let folder = env::temp_dir().join(format!("try-it-now-containers-{node}"));
        let settings = Settings {
            address: stack.address,
            folder,
            node,
            criu: true,
            path: Some(stack.path),
            outside: Outside::default(),
        };
        Some(Self { settings })
    }

    /// A runtime on this node, as of a server that was just started.
    async fn open(&self) -> ContainerdRuntime {
        ContainerdRuntime::open(self.settings.clone()).await.unwrap()
    }

    /// Everything that there is of this name, an instance's or this node's, as containerd's own tool and the file system
    /// tell.
    fn all_of(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for what in ["containers", "tasks", "snapshots"] {
            let mut ctr = Command::new("ctr");
            ctr.env("PATH", self.settings.path.as_ref().unwrap())
                .arg("--address")
                .arg(&self.settings.address);
            let output = ctr.args(["--namespace", "try-it-now", what, "list"]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            found.extend(
                text.lines().filter(|line| line.contains(name)).map(|line| format!("{what}: {line}")),
            );
        }
        let folder = self.settings.folder.join("instances").join(name);
        found.extend(folder.exists().then(|| folder.display().to_string()));
        found
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
    App { image: Some(Image::Tar(stack::image("php"))), port: 8080, ..super::app(command) }
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
    let keeper = php(KEEPER);
    let (id, started) = start(runtime, &keeper).await;
    assert_eq!(started.how, StartMethod::Cold);
    tell(runtime, started.endpoint, "add").await;
    assert_eq!(tell(runtime, started.endpoint, "note old").await, "1 old");
    within(runtime.bake(&id, REVISION, &keeper)).await.unwrap();
    keeper
}
