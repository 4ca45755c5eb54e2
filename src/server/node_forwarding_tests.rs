//! Requests that one server passes on to another: two of them in this process, with both engines, over real sockets.
//! The app is the sample app, which the second server has as an instance of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dispatch::{Dispatch, Stop};
use super::http1_guard::Limits;
use super::listener;
use super::listener::ListenerContext;
use super::tls::Tls;
use crate::api::Api;
use crate::cli::sample_app;
use crate::clock::Millis;
use crate::cluster::{Directory, HOP, PeerTls};
use crate::config::{TlsFiles, TrustedProxies};
use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, NodeId, TemplateName};
use crate::pool::tests::fixture::sealed_pool;
use crate::proxy::routes::RouteTable;
use crate::proxy::{self, Proxy};
use crate::request::{Hosts, InFlightRequests};
use crate::store::RouteChange;
use crate::telemetry::{Format, Metrics};
use crate::template::Secret;

const PATIENCE: Duration = Duration::from_secs(20);

/// Time of an answer that waits for nothing but the longest time to connect, and what a busy machine adds.
const SOON: Duration = Duration::from_millis(3_000);

/// One server and its table of routes.
struct Server {
    node: NodeId,
    address: SocketAddr,
    routes: Arc<RouteTable>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    _begin_stop: watch::Sender<bool>,
}

impl Server {
    /// On a port of the system's choice, with TLS there, and with TLS on the way to others. All of its instances are the
    /// app at this address.
    async fn start(name: &str, app: SocketAddr, tls: Option<Arc<Tls>>, secure: Option<PeerTls>) -> Self {
        let node = NodeId::parse(name).unwrap();
        let (routes, metrics) = (Arc::new(RouteTable::default()), Arc::new(Metrics::new()));
        let directory = Arc::new(Directory::alone(node.clone()));
        let pool = sealed_pool(app);
        let (begin_stop, stopping) = watch::channel(false);
        let cut = CancellationToken::new();
        let stop = Stop::new(stopping, cut.clone());
        // Nobody is trusted: not even this very host, where the other server is.
        let trusted = TrustedProxies::default();
        let api = Arc::new(Api::new(pool.clone(), metrics.clone(), None, trusted.clone(), cut));
        let proxy = Proxy::new(proxy::ProxyParts {
            hosts: Arc::new(Hosts::new("demo.test", [])),
            api: api.clone(),
            routes: routes.clone(),
            pool,
            directory: directory.clone(),
            secure,
            metrics: metrics.clone(),
            trusted,
            read_timeout: PATIENCE,
            write_timeout: PATIENCE,
            under_way: InFlightRequests::default(),
        });
        let dispatch = Dispatch::new(api, proxy, Limits::default(), PATIENCE, stop.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = ListenerContext { dispatch, tls, max_connections: 100, connections: TaskTracker::new() };
        crate::telemetry::task::spawn("accept", listener::run(front, listener, stop));
        Self { node, address, routes, directory, metrics, _begin_stop: begin_stop }
    }

    /// Tells it where these nodes are.
    fn knows(&self, members: &[(&NodeId, SocketAddr)]) {
        let members = members.iter().map(|(node, address)| ((*node).clone(), address.to_string()));
        self.directory.update(members, &Secret::new("shared"));
    }

    fn knows_of(&self, instance: &Instance) {
        self.routes.apply(&RouteChange::Set(instance.clone()));
    }

    /// Requests that it passed on.
    fn passed_on(&self) -> u64 {
        let page = self.metrics.page(Format::Text);
        let line = page.lines().find_map(|line| line.strip_prefix("demo_requests_passed_on_total "));
        line.unwrap().parse().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// `GET path` of `host` with these fields, on a connection of its own that begins with a request of `first`.
    async fn get_after(&self, first: Option<&str>, host: &str, path: &str, fields: HeaderMap) -> Answer {
        let asking = async {
            let stream = TokioIo::new(self.connect().await);
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            crate::telemetry::task::spawn("client", connection);
            if let Some(first) = first {
                let answer = send.send_request(request(first, "/health", HeaderMap::new())).await.unwrap();
                answer.into_body().collect().await.unwrap();
            }
            let (head, body) = send.send_request(request(host, path, fields)).await.unwrap().into_parts();
            Answer {
                status: head.status,
                headers: head.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        };
        timeout(PATIENCE, asking).await.expect("an answer")
    }

    /// The same over HTTP/2.
    async fn get_h2(&self, host: &str, path: &str, fields: HeaderMap) -> Answer {
        let asking = async {
            let (mut send, connection) = h2::client::handshake(self.connect().await).await.unwrap();
            crate::telemetry::task::spawn("client", connection);
            let mut request = Request::get(format!("http://{host}{path}")).body(()).unwrap();
            *request.headers_mut() = fields;
            let (answer, _) = send.send_request(request, true).unwrap();
            let (head, mut stream) = answer.await.unwrap().into_parts();
            let mut body = Vec::new();
            while let Some(piece) = stream.data().await {
                body.extend_from_slice(&piece.unwrap());
            }
            Answer { status: head.status, headers: head.headers, body: body.into() }
        };
        timeout(PATIENCE, asking).await.expect("an answer")
    }

    /// By each way that a request can come in: to Pingora, over HTTP/2, and to hyper, which hands it on.
    async fn get_all_ways(&self, host: &str, path: &str, fields: &HeaderMap) -> Vec<(&'static str, Answer)> {
        vec![
            ("HTTP/1", self.get_after(None, host, path, fields.clone()).await),
            ("HTTP/2", self.get_h2(host, path, fields.clone()).await),
            ("a connection of hyper's", self.get_after(Some("localhost"), host, path, fields.clone()).await),
        ]
    }

    /// Asks for a WebSocket, and says what was answered.
    async fn open_socket(&self, host: &str, path: &str, fields: &HeaderMap) -> StatusCode {
        let mut asked = request(host, path, fields.clone());
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            asked.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let asking = async {
            let stream = TokioIo::new(self.connect().await);
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            crate::telemetry::task::spawn("client", connection.with_upgrades());
            send.send_request(asked).await.unwrap().status()
        };
        timeout(PATIENCE, asking).await.expect("an answer")
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body))
    }

    /// What the app says of the request's fields, without what differs from one request to the next.
    fn seen(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        let mut seen = self.json()["headers"].clone();
        seen.as_object_mut().unwrap().remove("x-request-id").expect("each request has an id");
        seen
    }
}

fn request(host: &str, path: &str, fields: HeaderMap) -> Request<Full<Bytes>> {
    let mut request = Request::get(path).body(Full::default()).unwrap();
    *request.headers_mut() = fields;
    request.headers_mut().insert("host", HeaderValue::from_str(host).unwrap());
    request
}

fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

/// The sample app, `a`, which is to pass requests on, and `b`, which runs the instance of the label.
struct World {
    a: Server,
    b: Server,
    instance: Instance,
    host: String,
}

fn instance_of(node: &NodeId) -> Instance {
    let id = InstanceId::random(&TemplateName::new("t").unwrap());
    Instance::warming(id, node.clone(), 1, Millis(0))
        .offered(Endpoint::Sealed { namespace: 1, port: 80 })
        .unwrap()
        .assigned(ClaimToken::random(), crate::pool::tests::fixture::START, Duration::from_secs(60))
        .unwrap()
}

impl World {
    async fn new() -> Self {
        Self::with(None, None).await
    }

    /// The same where `b` has TLS on its port, and `a` speaks it to other servers.
    async fn with(tls: Option<Arc<Tls>>, secure: Option<PeerTls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        let settings = sample_app::Settings::from_variables(|name| (name == "PORT").then(|| "0".to_owned()));
        let file = std::env::temp_dir().join(format!("try-it-now-passing-{}.json", NodeId::random()));
        let settings = sample_app::Settings { data_file: file, ..settings.unwrap() };
        crate::telemetry::task::spawn("app", sample_app::serve(listener, settings));
        let a = Server::start("a", app, None, secure).await;
        let b = Server::start("b", app, tls, None).await;
        for server in [&a, &b] {
            server.knows(&[(&a.node, a.address), (&b.node, b.address)]);
        }
        let instance = instance_of(&b.node);
        let host = format!("{}.demo.test", instance.id());
        a.knows_of(&instance);
        b.knows_of(&instance);
        Self { a, b, instance, host }
    }

    /// A hop as `a` signs one for `b`.
    async fn genuine(&self) -> HeaderValue {
        let now = crate::pool::tests::fixture::START;
        self.a.directory.way_to(&self.b.node, self.instance.id().as_str(), now).await.unwrap().1
    }

    async fn assert_unreachable(&self, case: &str) {
        let begun = Instant::now();
        for (way, answer) in self.a.get_all_ways(&self.host, "/whoami", &HeaderMap::new()).await {
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{case}, {way}");
            let page = String::from_utf8_lossy(&answer.body);
            assert!(page.contains("does not answer right now"), "{case}, {way}: {page}");
        }
        let json = fields(&[("accept", "application/json")]);
        let answer = self.a.get_after(None, &self.host, "/whoami", json).await;
        assert_eq!(answer.json()["code"], "INSTANCE_UNREACHABLE", "{case}");
        let socket = self.a.open_socket(&self.host, "/live", &HeaderMap::new()).await;
        assert_eq!(socket, StatusCode::BAD_GATEWAY, "{case}");
        assert!(begun.elapsed() < 5 * SOON, "{case}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_app_sees_the_same_of_a_visitor_whichever_server_he_came_to() {
    let world = World::new().await;
    let asked = fields(&[("x-forwarded-for", "203.0.113.9"), ("x-api-key", "k"), ("accept", "text/html")]);
    let direct = world.b.get_after(None, &world.host, "/whoami?a=b", asked.clone()).await.seen();
    assert_eq!(direct["x-forwarded-for"], json!(["127.0.0.1"]), "an outsider is not believed: {direct}");
    for (way, answer) in world.a.get_all_ways(&world.host, "/whoami?a=b", &asked).await {
        assert_eq!(answer.seen(), direct, "{way}");
        assert_eq!(answer.json()["query"], "a=b");
        assert!(!answer.headers.contains_key(HOP));
    }
    assert_eq!((world.a.passed_on(), world.b.passed_on()), (3, 0));
    for server in [&world.a, &world.b] {
        let opened = server.open_socket(&world.host, "/live", &asked).await;
        assert_eq!(opened, StatusCode::SWITCHING_PROTOCOLS);
    }
    assert_eq!((world.a.passed_on(), world.b.passed_on()), (4, 0));
}

#[tokio::test]
async fn a_server_is_believed_in_what_it_says_of_the_visitor() {
    let world = World::new().await;
    let mut asked = fields(&[
        ("x-forwarded-for", "192.0.2.1, 203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-request-id", "abc"),
    ]);
    asked.insert(HOP, world.genuine().await);
    for (way, answer) in world.b.get_all_ways(&world.host, "/whoami", &asked).await {
        assert_eq!(answer.headers["x-request-id"], "abc");
        let seen = answer.seen();
        assert_eq!(seen["x-forwarded-for"], json!(["192.0.2.1, 203.0.113.9"]), "{way}");
        assert_eq!(seen["x-forwarded-proto"], json!(["https"]), "{way}");
        assert_eq!(seen["x-forwarded-host"], json!(["shop.example"]), "{way}");
        assert!(!seen.as_object().unwrap().contains_key(HOP.as_str()), "{way}: {seen}");
    }
}

#[tokio::test]
async fn a_forged_hop_never_reaches_the_app_and_changes_nothing() {
    let world = World::new().await;
    let plain = world.b.get_after(None, &world.host, "/whoami", HeaderMap::new()).await.seen();
    let other = Directory::alone(world.a.node.clone());
    other.update([(world.b.node.clone(), "127.0.0.1:1".to_owned())], &Secret::new("guessed"));
    let now = crate::pool::tests::fixture::START;
    let label = world.instance.id().as_str();
    let guessed = other.way_to(&world.b.node, label, now).await.unwrap().1;
    let elsewhere = world.a.directory.way_to(&world.b.node, "t-aaaaaaaaaaaaaaaa", now).await.unwrap().1;
    let old = Millis(now.0 - 600_000);
    let old = world.a.directory.way_to(&world.b.node, label, old).await.unwrap().1;
    let words = ["", "1", "v1.a.28333333.00", "\u{e9}"].map(|word| HeaderValue::from_str(word).unwrap());
    for forged in [guessed, elsewhere, old].into_iter().chain(words) {
        let mut asked = fields(&[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")]);
        asked.insert(HOP, forged.clone());
        for (way, answer) in world.b.get_all_ways(&world.host, "/whoami", &asked).await {
            assert_eq!(answer.seen(), plain, "{forged:?} by {way}");
        }
        let opened = world.b.open_socket(&world.host, "/live", &asked).await;
        assert_eq!(opened, StatusCode::SWITCHING_PROTOCOLS, "{forged:?}");
    }
    // Two of them, one genuine.
    let mut asked = fields(&[("x-forwarded-for", "203.0.113.9")]);
    asked.append(HOP, world.genuine().await);
    asked.append(HOP, HeaderValue::from_static("1"));
    for (way, answer) in world.b.get_all_ways(&world.host, "/whoami", &asked).await {
        assert_eq!(answer.seen(), plain, "two by {way}");
    }
}

#[tokio::test]
async fn a_request_that_was_passed_on_is_never_passed_on_again() {
    let world = World::new().await;
    // What a says of the owner is wrong: its address is that of a itself.
    world.a.knows(&[(&world.b.node, world.a.address)]);
    world.assert_unreachable("its own address").await;
    assert_eq!(world.a.passed_on(), 5, "each of the five once");
    // Each thinks that the other has it.
    world.a.knows(&[(&world.b.node, world.b.address)]);
    let instance = instance_of(&NodeId::parse("c").unwrap());
    let host = format!("{}.demo.test", instance.id());
    for (server, other) in [(&world.a, &world.b), (&world.b, &world.a)] {
        server.knows_of(&instance);
        server.knows(&[(instance.node(), other.address)]);
    }
    assert_eq!(world.a.get_after(None, &host, "/", HeaderMap::new()).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!((world.a.passed_on(), world.b.passed_on()), (6, 0));
    // A visitor who forges the field has only this of it.
    let forged = fields(&[("x-try-it-now-hop", "1")]);
    world.a.knows(&[(&world.b.node, world.b.address)]);
    let answer = world.a.get_after(None, &world.host, "/", forged).await;
    assert_eq!((answer.status, world.a.passed_on()), (StatusCode::BAD_GATEWAY, 6));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_of_at_once() {
    let world = World::new().await;
    world.a.knows(&[]);
    world.assert_unreachable("nobody knows it").await;
    assert_eq!(world.a.passed_on(), 0);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    world.a.knows(&[(&world.b.node, gone)]);
    world.assert_unreachable("nobody listens").await;
    // Its queue is full, so that it answers to no knock, like a machine that is gone.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue is never full");
    }
    world.a.knows(&[(&world.b.node, address)]);
    world.assert_unreachable("it says nothing").await;
    world.a.knows(&[(&world.b.node, world.b.address)]);
    world.a.get_after(None, &world.host, "/whoami", HeaderMap::new()).await.seen();
}

/// A certificate for the hosts of instances, signed by nobody but itself.
fn certificate() -> Arc<Tls> {
    let folder = std::env::temp_dir().join(format!("try-it-now-passing-{}", NodeId::random()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["*.demo.test".to_owned()]).unwrap();
    let files = TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let tls = Tls::load(files).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Arc::new(tls)
}

#[tokio::test]
async fn servers_that_speak_tls_do_so_among_themselves() {
    let tls = certificate();
    let world = World::with(Some(tls.clone()), Some(PeerTls::new(tls.own()).unwrap())).await;
    for (way, answer) in world.a.get_all_ways(&world.host, "/whoami", &HeaderMap::new()).await {
        let seen = answer.seen();
        assert_eq!(seen["x-forwarded-for"], json!(["127.0.0.1"]), "{way}");
        // The visitor came in the clear.
        assert_eq!(seen["x-forwarded-proto"], json!(["http"]), "{way}");
    }
    let opened = world.a.open_socket(&world.host, "/live", &HeaderMap::new()).await;
    assert_eq!(opened, StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn a_server_that_shows_a_strangers_certificate_gets_nothing() {
    let world = World::with(Some(certificate()), Some(PeerTls::new(certificate().own()).unwrap())).await;
    world.assert_unreachable("another certificate").await;
}
