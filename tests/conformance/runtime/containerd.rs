//! What the containerd runtime promises beyond the suite. Its apps are made of the PHP image, whose programs are PHP and
//! a shell.

use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use try_it_now::instance::NodeId;
use try_it_now::runtime::containerd::{ContainerdRuntime, Settings};
use try_it_now::runtime::{App, Image, Runtime};

use super::{Apps, Subject};
use crate::stack::{self, Stack};

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
        let settings = Settings { address: stack.address, folder, node, criu: true, path: Some(stack.path) };
        Some(Self { settings })
    }

    /// A runtime on this node, as of a server that was just started.
    async fn open(&self) -> ContainerdRuntime {
        ContainerdRuntime::open(self.settings.clone()).await.unwrap()
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
