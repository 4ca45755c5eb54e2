//! Requests that one node forwards to another: two nodes in this process, with both engines, over real sockets. The app
//! is the sample app, which the second node runs as an instance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::super::client_connections::ConnectionMaxima;
use super::super::dispatch::Dispatcher;
use super::super::handover::PassedConnections;
use super::super::http1_guard::ClientTimeouts;
use super::super::listener::{self, ListenerContext};
use super::super::shutdown::RequestStop;
use super::super::tls::ServerTls;
use crate::api::{Api, ApiKey, TrustedOrigins};
use crate::cli::sample_app;
use crate::clock::Millis;
use crate::cluster::{Directory, HOP_HEADER, PeerTls};
use crate::config::{Http1Engine, TlsFiles, TrustedProxies};
use crate::instance::{ClaimToken, Endpoint, Instance, InstanceId, NodeId, TemplateName};
use crate::pool::tests::fixture::sealed_pool;
use crate::proxy::routes::RouteTable;
use crate::proxy::{self, Proxy, RequestLimits, RequestMaxima, Tunnels};
use crate::request::{ClientPermits, Hosts, InFlightRequests};
use crate::store::RouteChange;
use crate::telemetry::{Metrics, MetricsFormat, task};
use crate::template::{NodeSecret, Secret};

/// Longest wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time of a response that waits at most for a failed connect, with room for a busy machine.
const MAX_CONNECT_WAIT: Duration = Duration::from_millis(3_000);

/// Most connections of one client to a node.
const MAX_CONNECTIONS_PER_CLIENT: usize = 50;

/// One node with its server and its route table.
struct Node {
    id: NodeId,
    address: SocketAddr,
    routes: Arc<RouteTable>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    _request_stop: RequestStop,
    _listener: DropGuard,
}

impl Node {
    /// Starts a node on a port of the system's choice. `tls` terminates TLS on that port, `peer_tls` encrypts
    /// connections to peers. All instances of the node are the app at the address `app`.
    async fn start(
        name: &str,
        app: SocketAddr,
        tls: Option<Arc<ServerTls>>,
        peer_tls: Option<PeerTls>,
    ) -> Self {
        let id = NodeId::parse(name).unwrap();
        let (routes, metrics) = (Arc::new(RouteTable::default()), Arc::new(Metrics::new()));
        let directory = Arc::new(Directory::alone(id.clone()));
        let pool = sealed_pool(app);
        let tunnels = Tunnels::default();
        let (request_stop, stop) = RequestStop::new(tunnels.clone());
        // No proxy is trusted, not even this host, where the other node is.
        let trusted = TrustedProxies::default();
        let origins =
            TrustedOrigins { home: "http://demo.test".parse().unwrap(), button_origins: Vec::new() };
        let key = ApiKey { secret: Secret::new("key"), is_required: false };
        let api = Api::new(&pool, metrics.clone(), key, trusted.clone(), origins, tunnels.end);
        let api = Arc::new(api);
        let proxy = Proxy::new(proxy::ProxyParts {
            hosts: Arc::new(Hosts::new("demo.test", [])),
            api: api.clone(),
            routes: routes.clone(),
            instances: pool.instances.clone(),
            clock: pool.clock().clone(),
            public_url: pool.public_url().clone(),
            directory: directory.clone(),
            peer_tls,
            metrics: metrics.clone(),
            trusted_proxies: trusted,
            read_timeout: RESPONSE_TIMEOUT,
            write_timeout: RESPONSE_TIMEOUT,
            limits: RequestLimits::new(
                ClientPermits::new(100, TrustedProxies::default()),
                RequestMaxima {
                    per_instance: 100,
                    total: 100,
                    buffered_bytes: 1 << 30,
                    idle_upstreams: 100,
                    idle_app_sockets: 100,
                },
            ),
            in_flight: InFlightRequests::default(),
        });
        let dispatcher = Dispatcher::new(
            api,
            proxy,
            ClientTimeouts::default(),
            RESPONSE_TIMEOUT,
            (stop.clone(), PassedConnections::new(true).passing()),
            Http1Engine::Pingora,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closed = CancellationToken::new();
        let context = ListenerContext {
            dispatcher,
            tls,
            maxima: ConnectionMaxima { total: 200, per_client: MAX_CONNECTIONS_PER_CLIENT },
            trusted_proxies: TrustedProxies::default(),
            directory: directory.clone(),
            metrics: metrics.clone(),
            connections: TaskTracker::new(),
            fresh: TaskTracker::new(),
            closed: closed.clone(),
        };
        task::spawn("accept", listener::run(context, listener, mpsc::unbounded_channel().1, stop));
        Self {
            id,
            address,
            routes,
            directory,
            metrics,
            _request_stop: request_stop,
            _listener: closed.drop_guard(),
        }
    }

    /// Sets the addresses at which this node reaches these nodes.
    fn set_directory(&self, members: &[(&NodeId, SocketAddr)]) {
        let members = members.iter().map(|(node, address)| ((*node).clone(), address.to_string()));
        self.directory.update(members, &NodeSecret::random(Secret::new("shared")));
    }

    /// Puts an instance into this node's route table.
    fn add_route(&self, instance: &Instance) {
        self.routes.apply(&RouteChange::Set(instance.clone()));
    }

    /// Returns how many requests this node has forwarded.
    fn forwarded(&self) -> u64 {
        let page = self.metrics.render(MetricsFormat::Text);
        let line = page.lines().find_map(|line| line.strip_prefix("demo_requests_passed_on_total "));
        line.unwrap().parse().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `GET path` to `host` with these fields, on a new connection that begins with a request to the host
    /// `first`.
    async fn get_after(&self, first: Option<&str>, host: &str, path: &str, fields: HeaderMap) -> Response {
        let exchange = async {
            let stream = TokioIo::new(self.connect().await);
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            task::spawn("client", connection);
            if let Some(first) = first {
                let response = send.send_request(request(first, "/health", HeaderMap::new())).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
            let (head, body) = send.send_request(request(host, path, fields)).await.unwrap().into_parts();
            Response {
                status: head.status,
                headers: head.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        };
        timeout(RESPONSE_TIMEOUT, exchange).await.expect("a response")
    }

    /// Sends `GET path` to `host` with these fields, over HTTP/2.
    async fn get_h2(&self, host: &str, path: &str, fields: HeaderMap) -> Response {
        let exchange = async {
            let (mut send, connection) = h2::client::handshake(self.connect().await).await.unwrap();
            task::spawn("client", connection);
            let mut request = Request::get(format!("http://{host}{path}")).body(()).unwrap();
            *request.headers_mut() = fields;
            let (response, _) = send.send_request(request, true).unwrap();
            let (head, mut stream) = response.await.unwrap().into_parts();
            let mut body = Vec::new();
            while let Some(piece) = stream.data().await {
                body.extend_from_slice(&piece.unwrap());
            }
            Response { status: head.status, headers: head.headers, body: body.into() }
        };
        timeout(RESPONSE_TIMEOUT, exchange).await.expect("a response")
    }

    /// Sends the request by each route into the server: to Pingora, over HTTP/2, and to hyper, which passes it to
    /// Pingora.
    async fn get_by_each_engine(
        &self,
        host: &str,
        path: &str,
        fields: &HeaderMap,
    ) -> Vec<(&'static str, Response)> {
        vec![
            ("HTTP/1", self.get_after(None, host, path, fields.clone()).await),
            ("HTTP/2", self.get_h2(host, path, fields.clone()).await),
            (
                "a connection that hyper serves",
                self.get_after(Some("localhost"), host, path, fields.clone()).await,
            ),
        ]
    }

    /// Sends the handshake of a WebSocket and returns the status of the response.
    async fn open_socket(&self, host: &str, path: &str, fields: &HeaderMap) -> StatusCode {
        let mut handshake = request(host, path, fields.clone());
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            handshake.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let exchange = async {
            let stream = TokioIo::new(self.connect().await);
            let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            task::spawn("client", connection.with_upgrades());
            send.send_request(handshake).await.unwrap().status()
        };
        timeout(RESPONSE_TIMEOUT, exchange).await.expect("a response")
    }
}

struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body))
    }

    /// Returns the request's fields as the app saw them, without the id, which differs from one request to the next.
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

/// The sample app; the node `a`, which forwards requests; and the node `b`, which runs the instance.
struct Cluster {
    a: Node,
    b: Node,
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

impl Cluster {
    async fn new() -> Self {
        Self::with_tls(None, None).await
    }

    /// Starts both nodes. `tls` terminates TLS on the port of `b`, `peer_tls` encrypts the connections of `a` to peers.
    async fn with_tls(tls: Option<Arc<ServerTls>>, peer_tls: Option<PeerTls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        let settings = sample_app::Settings::from_variables(|name| (name == "PORT").then(|| "0".to_owned()));
        let file = std::env::temp_dir().join(format!("try-it-now-forwarding-{}.json", NodeId::random()));
        let settings = sample_app::Settings { data_file: file, ..settings.unwrap() };
        task::spawn("app", sample_app::serve(listener, settings));
        let a = Node::start("a", app, None, peer_tls).await;
        let b = Node::start("b", app, tls, None).await;
        for node in [&a, &b] {
            node.set_directory(&[(&a.id, a.address), (&b.id, b.address)]);
        }
        let instance = instance_of(&b.id);
        let host = format!("{}.demo.test", instance.id());
        a.add_route(&instance);
        b.add_route(&instance);
        Self { a, b, instance, host }
    }

    /// Returns a hop header that `a` signed for `b`.
    async fn signed_hop(&self) -> HeaderValue {
        let now = crate::pool::tests::fixture::START;
        self.a.directory.hop_to(&self.b.id, self.instance.id().as_str(), now).await.unwrap().1
    }

    /// Asserts that each request for the instance is answered as unreachable, without a long wait.
    async fn assert_unreachable(&self, case: &str) {
        let start = Instant::now();
        for (engine, response) in self.a.get_by_each_engine(&self.host, "/whoami", &HeaderMap::new()).await {
            assert_eq!(response.status, StatusCode::BAD_GATEWAY, "{case}, {engine}");
            let page = String::from_utf8_lossy(&response.body);
            assert!(page.contains("does not answer right now"), "{case}, {engine}: {page}");
        }
        let json = fields(&[("accept", "application/json")]);
        let response = self.a.get_after(None, &self.host, "/whoami", json).await;
        assert_eq!(response.json()["code"], "INSTANCE_UNREACHABLE", "{case}");
        let socket = self.a.open_socket(&self.host, "/live", &HeaderMap::new()).await;
        assert_eq!(socket, StatusCode::BAD_GATEWAY, "{case}");
        assert!(start.elapsed() < 5 * MAX_CONNECT_WAIT, "{case}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn an_app_sees_the_same_request_fields_whichever_node_the_visitor_reached() {
    let cluster = Cluster::new().await;
    let sent = fields(&[("x-forwarded-for", "203.0.113.9"), ("x-api-key", "k"), ("accept", "text/html")]);
    let direct = cluster.b.get_after(None, &cluster.host, "/whoami?a=b", sent.clone()).await.seen();
    assert_eq!(
        direct["x-forwarded-for"],
        json!(["127.0.0.1"]),
        "a forwarded field of an untrusted client is ignored: {direct}"
    );
    for (engine, response) in cluster.a.get_by_each_engine(&cluster.host, "/whoami?a=b", &sent).await {
        assert_eq!(response.seen(), direct, "{engine}");
        assert_eq!(response.json()["query"], "a=b");
        assert!(!response.headers.contains_key(HOP_HEADER));
    }
    assert_eq!((cluster.a.forwarded(), cluster.b.forwarded()), (3, 0));
    for server in [&cluster.a, &cluster.b] {
        let opened = server.open_socket(&cluster.host, "/live", &sent).await;
        assert_eq!(opened, StatusCode::SWITCHING_PROTOCOLS);
    }
    assert_eq!((cluster.a.forwarded(), cluster.b.forwarded()), (4, 0));
}

#[tokio::test]
async fn the_forwarded_fields_of_a_peer_are_trusted() {
    let cluster = Cluster::new().await;
    let mut sent = fields(&[
        ("x-forwarded-for", "192.0.2.1, 203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-request-id", "abc"),
    ]);
    sent.insert(HOP_HEADER, cluster.signed_hop().await);
    for (engine, response) in cluster.b.get_by_each_engine(&cluster.host, "/whoami", &sent).await {
        assert_eq!(response.headers["x-request-id"], "abc");
        let seen = response.seen();
        assert_eq!(seen["x-forwarded-for"], json!(["192.0.2.1, 203.0.113.9"]), "{engine}");
        assert_eq!(seen["x-forwarded-proto"], json!(["https"]), "{engine}");
        assert_eq!(seen["x-forwarded-host"], json!(["shop.example"]), "{engine}");
        assert!(!seen.as_object().unwrap().contains_key(HOP_HEADER.as_str()), "{engine}: {seen}");
    }
}

#[tokio::test]
async fn a_forged_hop_never_reaches_the_app_and_changes_nothing() {
    let cluster = Cluster::new().await;
    let plain = cluster.b.get_after(None, &cluster.host, "/whoami", HeaderMap::new()).await.seen();
    let other = Directory::alone(cluster.a.id.clone());
    other.update(
        [(cluster.b.id.clone(), "127.0.0.1:1".to_owned())],
        &NodeSecret::random(Secret::new("guessed")),
    );
    let now = crate::pool::tests::fixture::START;
    let label = cluster.instance.id().as_str();
    let guessed = other.hop_to(&cluster.b.id, label, now).await.unwrap().1;
    let elsewhere = cluster.a.directory.hop_to(&cluster.b.id, "t-aaaaaaaaaaaaaaaa", now).await.unwrap().1;
    let old = Millis(now.0 - 600_000);
    let old = cluster.a.directory.hop_to(&cluster.b.id, label, old).await.unwrap().1;
    let words = ["", "1", "v1.a.28333333.00", "\u{e9}"].map(|word| HeaderValue::from_str(word).unwrap());
    for forged in [guessed, elsewhere, old].into_iter().chain(words) {
        let mut sent = fields(&[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")]);
        sent.insert(HOP_HEADER, forged.clone());
        for (engine, response) in cluster.b.get_by_each_engine(&cluster.host, "/whoami", &sent).await {
            assert_eq!(response.seen(), plain, "{forged:?} by {engine}");
        }
        let opened = cluster.b.open_socket(&cluster.host, "/live", &sent).await;
        assert_eq!(opened, StatusCode::SWITCHING_PROTOCOLS, "{forged:?}");
    }
    // Two fields, one of them genuine.
    let mut sent = fields(&[("x-forwarded-for", "203.0.113.9")]);
    sent.append(HOP_HEADER, cluster.signed_hop().await);
    sent.append(HOP_HEADER, HeaderValue::from_static("1"));
    for (engine, response) in cluster.b.get_by_each_engine(&cluster.host, "/whoami", &sent).await {
        assert_eq!(response.seen(), plain, "two by {engine}");
    }
}

#[tokio::test]
async fn a_forwarded_request_is_never_forwarded_again() {
    let cluster = Cluster::new().await;
    // The directory of a is wrong: the address of the owner is that of a itself.
    cluster.a.set_directory(&[(&cluster.b.id, cluster.a.address)]);
    cluster.assert_unreachable("its own address").await;
    assert_eq!(cluster.a.forwarded(), 5, "each of the five once");
    // Each of the two nodes forwards to the other.
    cluster.a.set_directory(&[(&cluster.b.id, cluster.b.address)]);
    let instance = instance_of(&NodeId::parse("c").unwrap());
    let host = format!("{}.demo.test", instance.id());
    for (server, other) in [(&cluster.a, &cluster.b), (&cluster.b, &cluster.a)] {
        server.add_route(&instance);
        server.set_directory(&[(instance.node(), other.address)]);
    }
    assert_eq!(cluster.a.get_after(None, &host, "/", HeaderMap::new()).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!((cluster.a.forwarded(), cluster.b.forwarded()), (6, 0));
    // A visitor who forges the field gets the same response.
    let forged = fields(&[("x-try-it-now-hop", "1")]);
    cluster.a.set_directory(&[(&cluster.b.id, cluster.b.address)]);
    let response = cluster.a.get_after(None, &cluster.host, "/", forged).await;
    assert_eq!((response.status, cluster.a.forwarded()), (StatusCode::BAD_GATEWAY, 6));
}

#[tokio::test]
async fn an_unreachable_peer_is_reported_at_once() {
    let cluster = Cluster::new().await;
    cluster.a.set_directory(&[]);
    cluster.assert_unreachable("no node knows its address").await;
    assert_eq!(cluster.a.forwarded(), 0);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    cluster.a.set_directory(&[(&cluster.b.id, gone)]);
    cluster.assert_unreachable("no socket listens").await;
    // Its queue of connections is full, so that it does not react to a connect, like a machine that is off.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue is never full");
    }
    cluster.a.set_directory(&[(&cluster.b.id, address)]);
    cluster.assert_unreachable("it does not react").await;
    cluster.a.set_directory(&[(&cluster.b.id, cluster.b.address)]);
    cluster.a.get_after(None, &cluster.host, "/whoami", HeaderMap::new()).await.seen();
}

/// Makes a self-signed certificate for the hosts of instances.
fn certificate() -> Arc<ServerTls> {
    let folder = std::env::temp_dir().join(format!("try-it-now-forwarding-{}", NodeId::random()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["*.demo.test".to_owned()]).unwrap();
    let files = TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let tls = ServerTls::load(files).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Arc::new(tls)
}

#[tokio::test]
async fn nodes_with_tls_use_tls_among_themselves() {
    let tls = certificate();
    let cluster =
        Cluster::with_tls(Some(tls.clone()), Some(PeerTls::new(tls.own_certificate()).unwrap())).await;
    for (engine, response) in cluster.a.get_by_each_engine(&cluster.host, "/whoami", &HeaderMap::new()).await
    {
        let seen = response.seen();
        assert_eq!(seen["x-forwarded-for"], json!(["127.0.0.1"]), "{engine}");
        // The visitor's connection is in the clear.
        assert_eq!(seen["x-forwarded-proto"], json!(["http"]), "{engine}");
    }
    let opened = cluster.a.open_socket(&cluster.host, "/live", &HeaderMap::new()).await;
    assert_eq!(opened, StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn a_peer_with_another_certificate_gets_no_request() {
    let cluster =
        Cluster::with_tls(Some(certificate()), Some(PeerTls::new(certificate().own_certificate()).unwrap()))
            .await;
    cluster.assert_unreachable("another certificate").await;
}

#[tokio::test]
async fn another_node_may_hold_more_connections_than_one_client() {
    let cluster = Cluster::new().await;
    // While this host is no address of a node, its connections are those of a client.
    cluster.a.set_directory(&[]);
    let mut held = Vec::new();
    let refused = async {
        loop {
            let mut connection = cluster.a.connect().await;
            let mut first = [0; 12];
            // An admitted connection gets no byte before it sends one.
            match timeout(Duration::from_millis(50), connection.read_exact(&mut first)).await {
                Ok(_) => return assert_eq!(&first, b"HTTP/1.1 503"),
                Err(_) => held.push(connection),
            }
        }
    };
    timeout(RESPONSE_TIMEOUT, refused).await.expect("a connection is refused");
    assert!(held.len() >= MAX_CONNECTIONS_PER_CLIENT, "{}", held.len());
    cluster.a.set_directory(&[(&cluster.b.id, cluster.b.address)]);
    let answered = async {
        loop {
            let mut connection = cluster.a.connect().await;
            // A refused connection may be closed already.
            let _ = connection.write_all(b"GET /health HTTP/1.1\r\nHost: demo.test\r\n\r\n").await;
            let mut first = [0; 12];
            let _ = connection.read_exact(&mut first).await;
            if &first == b"HTTP/1.1 200" {
                return;
            }
        }
    };
    timeout(RESPONSE_TIMEOUT, answered).await.expect("the connections of a node are no client's");
}
