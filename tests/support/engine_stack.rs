//! The container engines that tests use. `make stack` installs them in `target/stack`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use try_it_now::instance::NodeId;
use try_it_now::runtime::CleanScope;
use try_it_now::runtime::engine::{self, EngineKind};
use try_it_now::telemetry::task;

use super::skip::skip;

/// Makes one test of each check for each engine.
macro_rules! with_each_engine {
    ($($check:ident)*) => {
        mod docker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                super::$check(try_it_now::runtime::engine::EngineKind::Docker).await;
            })*
        }
        mod podman {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                super::$check(try_it_now::runtime::engine::EngineKind::Podman).await;
            })*
        }
    };
}
pub(crate) use with_each_engine;

/// Returns the variable that names an engine's socket.
pub(crate) fn socket_variable(kind: EngineKind) -> &'static str {
    match kind {
        EngineKind::Docker => "DOCKER_HOST",
        EngineKind::Podman => "CONTAINER_HOST",
    }
}

/// Returns the socket of an engine: the one that its variable names, else that of this checkout. Returns `None` and
/// prints why if there is none or an image is missing; panics if no test may be skipped.
pub(crate) fn engine_socket(kind: EngineKind) -> Option<PathBuf> {
    let variable = socket_variable(kind);
    let socket = env::var(variable).ok().or_else(|| from_checkout(variable));
    let socket = socket.as_deref().and_then(|socket| socket.strip_prefix("unix://")).map(PathBuf::from);
    let has_image = super::stack::image_archive("php").is_file();
    if let (Some(socket), true) = (socket.filter(|socket| socket.exists()), has_image) {
        return Some(socket);
    }
    skip(&format!("{variable} names no engine, or an image is missing (run `make stack-up images`)"));
    None
}

/// Returns a client of an engine.
pub(crate) async fn engine(socket: &Path) -> bollard::Docker {
    let path = socket.to_str().unwrap();
    let engine = bollard::Docker::connect_with_unix(path, 120, bollard::API_DEFAULT_VERSION).unwrap();
    engine.negotiate_version().await.unwrap()
}

fn from_checkout(variable: &str) -> Option<String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let lines = fs::read_to_string(target.join("stack/env")).ok()?;
    let line = lines.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))?;
    Some(line.trim_matches(['"', '\'']).to_owned())
}

/// Sends a request to an engine as an operator's tool does. Returns the status and the body.
pub(crate) async fn engine_request(socket: &Path, method: &str, path: &str) -> (u16, Bytes) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    task::spawn("test", connection);
    let request = Request::builder().method(method).uri(format!("/v1.41{path}")).header("host", "engine");
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

/// Removes a container as an operator does.
pub(crate) async fn remove_by_hand(socket: &Path, name: &str) {
    let (status, body) = engine_request(socket, "DELETE", &format!("/containers/{name}?force=true")).await;
    assert!((200..300).contains(&status), "{status} {body:?}");
}

/// Lists the instances that have a container of a node, whether it runs or not.
pub(crate) async fn containers_of(socket: &Path, node: &str) -> BTreeSet<String> {
    let filters = format!("%7B%22label%22%3A%5B%22try-it-now.node%3D{node}%22%5D%7D");
    let (status, body) =
        engine_request(socket, "GET", &format!("/containers/json?all=true&filters={filters}")).await;
    assert_eq!(status, 200, "{body:?}");
    let list: Vec<Value> = serde_json::from_slice(&body).unwrap();
    let instance = |one: &Value| one["Labels"]["try-it-now.instance"].as_str().map(str::to_owned);
    list.iter().map(|one| instance(one).expect("each container has its instance")).collect()
}

/// Removes everything of nodes from an engine. An engine that a test has ended has nothing to remove.
pub(crate) fn remove_nodes(kind: EngineKind, socket: PathBuf, nodes: Vec<NodeId>) {
    let clean_up = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(engine::clean(kind, &[socket], &CleanScope::Nodes(nodes)));
    };
    // A thread that runs one async runtime cannot block on another.
    let _ = std::thread::spawn(clean_up).join();
}

/// A socket that passes connections on to an engine until it is closed, so that the engine seems to be away.
pub(crate) struct EngineProxy {
    pub(crate) path: PathBuf,
    engine: PathBuf,
    open: Option<(CancellationToken, JoinHandle<()>)>,
}

impl EngineProxy {
    /// Opens a proxy at a path of its own in front of an engine.
    pub(crate) fn to(engine: PathBuf) -> Self {
        let path = env::temp_dir().join(format!("tin-{}.sock", NodeId::random()));
        let mut proxy = Self { path, engine, open: None };
        proxy.open();
        proxy
    }

    /// Opens the proxy, for the first time or again. When this returns, it accepts connections.
    pub(crate) fn open(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let end = CancellationToken::new();
        let passing = task::spawn("engine proxy", pass_on(listener, self.engine.clone(), end.clone()));
        self.open = Some((end, passing));
    }

    /// Ends all connections, and removes the socket.
    pub(crate) async fn close(&mut self) {
        if let Some((end, passing)) = self.open.take() {
            end.cancel();
            passing.await.unwrap();
            fs::remove_file(&self.path).unwrap();
        }
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        if let Some((end, _)) = self.open.take() {
            end.cancel();
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn pass_on(listener: UnixListener, engine: PathBuf, end: CancellationToken) {
    let passing = async {
        while let Ok((mut near, _)) = listener.accept().await {
            let (engine, end) = (engine.clone(), end.clone());
            task::spawn("a passed connection", async move {
                let Ok(mut far) = UnixStream::connect(engine).await else { return };
                let copying = tokio::io::copy_bidirectional(&mut near, &mut far);
                let _ = end.run_until_cancelled(copying).await;
            });
        }
    };
    let _: Option<()> = end.run_until_cancelled(passing).await;
}
