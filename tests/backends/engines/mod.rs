//! The engine runtime under the suite, with each engine, and what only this runtime promises. The apps of these tests
//! use the PHP image, whose programs are PHP and a shell.

mod promises;

use std::path::PathBuf;
use std::sync::Arc;

use try_it_now::instance::NodeId;
use try_it_now::runtime::Runtime;
use try_it_now::runtime::engine::{EngineKind, EngineRuntime, EngineSettings};
use try_it_now::template::{App, ImageRef};

use crate::suites::runtime::{RuntimeUnderTest, TestApps};
use crate::support::engine_stack::{engine_socket, remove_nodes};
use crate::support::stack::image_archive;

runtime_suite!(docker, crate::engines::docker_under_test);
runtime_suite!(podman, crate::engines::podman_under_test);

/// Sends to each connection what the suite expects.
const LISTEN: &str = r#"
$listener = stream_socket_server("tcp://" . getenv("HOST") . ":" . getenv("PORT"));
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
    settings: EngineSettings,
}

impl TestNode {
    /// Returns a new node, or `None` if the engine does not run.
    fn new(kind: EngineKind) -> Option<Self> {
        Some(Self::at(kind, engine_socket(kind)?))
    }

    /// Returns a new node at an engine.
    fn at(kind: EngineKind, socket: PathBuf) -> Self {
        let node = NodeId::random();
        let files_dir = std::env::temp_dir().join(format!("tin-{node}"));
        let settings =
            EngineSettings { kind, sockets: vec![socket], node, logins: None, files_dir, reach: None };
        Self { settings }
    }

    /// Opens a runtime on this node, as a server does when it starts.
    async fn open(&self) -> EngineRuntime {
        EngineRuntime::open(self.settings.clone()).await.unwrap()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let EngineSettings { kind, sockets, node, files_dir, .. } = &self.settings;
        remove_nodes(*kind, sockets[0].clone(), vec![node.clone()]);
        let _ = std::fs::remove_dir_all(files_dir);
    }
}

async fn podman_under_test() -> Option<RuntimeUnderTest> {
    under_test(EngineKind::Podman).await
}

async fn docker_under_test() -> Option<RuntimeUnderTest> {
    under_test(EngineKind::Docker).await
}

/// Returns the runtime and the apps for the suite.
async fn under_test(kind: EngineKind) -> Option<RuntimeUnderTest> {
    let test_node = TestNode::new(kind)?;
    let apps = TestApps {
        listening: php(LISTEN),
        talking: shell("echo hello; exec sleep 600"),
        ending: shell("exit 3"),
        missing: app(&["no-such-program"]),
    };
    let runtime = Arc::new(test_node.open().await);
    runtime.fetch(&apps.talking).await.unwrap();
    Some(RuntimeUnderTest { runtime, apps, _keep_alive: Box::new(test_node) })
}

fn app(command: &[&str]) -> App {
    App {
        image: Some(ImageRef::Tar(image_archive("php"))),
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
