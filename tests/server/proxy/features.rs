//! The table of what the proxy carries of HTTP, for each engine and protocol of the client, towards an instance of this
//! node and of another one. Each row is proved here; what is not carried has a row too, so that a change is noticed.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::time::timeout;

use Feature::*;
use Verdict::*;

use crate::support::harness::{AcquiredInstance, MAX_WAIT, RawConnection, Server, get, h2c, websocket};
use crate::support::valkey_server::{Persistence, ValkeyServer};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Feature {
    Head,
    Range,
    Gzip,
    ContinueBeforeBody,
    EarlyHints,
    ResponseTrailers,
    RequestTrailers,
    /// Messages and status, which is a trailer.
    Grpc,
    /// Messages and status, which is in the body.
    GrpcWeb,
    WebSocketExtensions,
    WebSocketSubProtocols,
    HalfClosedClient,
    SilentStream,
    EndOfSilence,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Carried,
    /// The rest of the message is carried without it.
    LeftOut,
    /// The client's protocol has no such thing, or this server does not offer it there.
    NoSuchThing,
}

/// How a client speaks to the server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Client {
    /// HTTP/1.1, on a connection that began with an instance.
    Http1,
    /// HTTP/1.1, on a connection that began with the API.
    Http1AfterApi,
    /// HTTP/2, which Pingora serves.
    Http2,
}

const CLIENTS: [Client; 3] = [Client::Http1, Client::Http1AfterApi, Client::Http2];

/// The verdicts for each client in the order of [`CLIENTS`].
const TABLE: [(Feature, [Verdict; 3]); 14] = [
    (Head, [Carried, Carried, Carried]),
    (Range, [Carried, Carried, Carried]),
    (Gzip, [Carried, Carried, Carried]),
    (ContinueBeforeBody, [Carried, Carried, NoSuchThing]),
    (EarlyHints, [Carried, Carried, NoSuchThing]),
    (ResponseTrailers, [LeftOut, LeftOut, LeftOut]),
    (RequestTrailers, [LeftOut, LeftOut, LeftOut]),
    (Grpc, [NoSuchThing, NoSuchThing, LeftOut]),
    (GrpcWeb, [Carried, Carried, Carried]),
    (WebSocketExtensions, [Carried, Carried, NoSuchThing]),
    (WebSocketSubProtocols, [Carried, Carried, NoSuchThing]),
    (HalfClosedClient, [Carried, Carried, NoSuchThing]),
    (SilentStream, [Carried, Carried, Carried]),
    (EndOfSilence, [Carried, Carried, Carried]),
];

/// Bytes that no decoder accepts.
const NO_GZIP: &[u8] = b"\x1f\x8b\x08 as it comes";
/// A message, and the frame with the status.
const GRPC_WEB: &[u8] = b"\0\0\0\0\x02hi\x80\0\0\0\x20grpc-status:0\r\ngrpc-message:ok\r\n";

/// Whatever a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: String,
}

/// A client of a server that visits two instances of it: of the fake upstream, and of the sample app.
struct Visit<'a> {
    server: &'a Server,
    fake: &'a AcquiredInstance,
    book: &'a AcquiredInstance,
    client: Client,
}

impl Visit<'_> {
    async fn connect(&self) -> RawConnection {
        let mut connection = RawConnection::connect(self.server.port).await;
        if self.client == Client::Http1AfterApi {
            assert_eq!(connection.get("localhost", "/health").await.status, 200);
        }
        connection
    }

    /// Sends a request to the fake upstream and reads the answer. A body is sent with a trailer.
    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &'static [u8]) -> Got {
        let asking = async {
            match self.client {
                Client::Http2 => self.ask_over_http2(method, path, fields, body).await,
                Client::Http1 | Client::Http1AfterApi => {
                    self.ask_over_http1(method, path, fields, body).await
                }
            }
        };
        timeout(MAX_WAIT, asking).await.expect("an answer")
    }

    async fn ask_over_http1(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &'static [u8],
    ) -> Got {
        let mut connection = self.connect().await;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.fake.host);
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        if body.is_empty() {
            connection.send(format!("{head}\r\n")).await;
        } else {
            connection.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len())).await;
            connection.send([body, b"\r\n0\r\nX-Sum: 1\r\n\r\n"].concat()).await;
        }
        let head = connection.read_head().await;
        let (status, headers) = (head.status, head.headers.clone());
        let mut got = Got { status, headers, body: Vec::new(), trailers: String::new() };
        if method != "HEAD" && head.headers.contains_key("transfer-encoding") {
            loop {
                let size = usize::from_str_radix(&connection.read_line().await, 16).unwrap();
                if size == 0 {
                    break;
                }
                got.body.extend(connection.read_bytes(size).await);
                assert_eq!(connection.read_line().await, "");
            }
            loop {
                match connection.read_line().await {
                    line if line.is_empty() => break,
                    line => got.trailers += &line,
                }
            }
        } else if method != "HEAD" {
            got.body = connection.read_body(head).await.body.to_vec();
        }
        // The connection is in order.
        assert_eq!(connection.get(&self.fake.host, "/").await.text(), self.fake.id);
        got
    }

    async fn ask_over_http2(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &'static [u8],
    ) -> Got {
        let mut send = h2c(self.server.port).await;
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.fake.host));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (answer, mut stream) = send.send_request(request.body(()).unwrap(), body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(Bytes::from_static(body), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
        let (head, mut stream) = answer.await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(piece) = stream.data().await {
            let piece = piece.unwrap();
            stream.flow_control().release_capacity(piece.len()).unwrap();
            body.extend_from_slice(&piece);
        }
        let trailers = stream.trailers().await.unwrap().map_or(String::new(), |it| format!("{it:?}"));
        Got { status: head.status.as_u16(), headers: head.headers, body, trailers }
    }

    /// Returns everything that the fake upstream has received so far, in lower case.
    async fn seen(&self) -> String {
        get(self.server.port, &self.fake.host, "/seen").await.text().to_ascii_lowercase()
    }

    /// Returns what becomes of a feature.
    async fn prove(&self, feature: Feature) -> Verdict {
        let verdict = |is_carried| if is_carried { Carried } else { LeftOut };
        match feature {
            Head => {
                let got = self.ask("HEAD", "/head", &[], b"").await;
                verdict(got.status == 200 && got.body.is_empty() && got.headers["content-length"] == "12345")
            }
            Range => {
                let fields = [("range", "bytes=1-3"), ("if-range", "\"v1\"")];
                let got = self.ask("GET", "/range", &fields, b"").await;
                assert_eq!((got.status, &*got.body), (206, &b"bcd"[..]));
                let seen = self.seen().await;
                let is_asked = seen.contains("range: bytes=1-3") && seen.contains("if-range: \"v1\"");
                verdict(is_asked && got.headers["content-range"] == "bytes 1-3/10")
            }
            Gzip => {
                let got = self.ask("GET", "/gzip", &[], b"").await;
                verdict(got.headers["content-encoding"] == "gzip" && got.body == NO_GZIP)
            }
            ContinueBeforeBody if self.client != Client::Http2 => {
                let mut connection = self.connect().await;
                connection
                    .send(format!(
                        "POST /upload HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
                        self.book.host
                    ))
                    .await;
                let first = connection.read_head().await.status;
                connection.send("ab").await;
                assert_eq!(connection.read_answer().await.json()["bytes"], 2);
                verdict(first == 100)
            }
            EarlyHints if self.client != Client::Http2 => {
                let mut connection = self.connect().await;
                connection.send(format!("GET /interim HTTP/1.1\r\nHost: {}\r\n\r\n", self.fake.host)).await;
                let first = connection.read_head().await;
                let is_carried = first.status == 103 && first.headers.contains_key("link");
                let last = if is_carried { connection.read_answer().await.status } else { first.status };
                assert_eq!(last, 200);
                verdict(is_carried)
            }
            ResponseTrailers => {
                let got = self.ask("GET", "/trailers", &[], b"").await;
                assert_eq!(got.body, b"hello");
                verdict(!got.trailers.is_empty())
            }
            RequestTrailers => {
                let got = self.ask("POST", "/", &[], b"hello").await;
                assert_eq!(got.body, self.fake.id.as_bytes());
                verdict(self.seen().await.contains("x-sum"))
            }
            Grpc if self.client == Client::Http2 => {
                let fields = [("content-type", "application/grpc"), ("te", "trailers")];
                let got = self.ask("POST", "/grpc", &fields, b"\0\0\0\0\x02hi").await;
                assert_eq!(
                    (&*got.body, got.headers["content-type"].as_bytes()),
                    (&b"\0\0\0\0\x02hi"[..], &b"application/grpc"[..])
                );
                verdict(got.trailers.contains("grpc-status"))
            }
            GrpcWeb => {
                let fields = [("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1")];
                let got = self.ask("POST", "/grpc-web", &fields, GRPC_WEB).await;
                assert_eq!((got.status, got.headers["x-grpc-web"].as_bytes()), (200, &b"1"[..]));
                let is_sent = self.seen().await.contains("grpc-status:0\r\ngrpc-message:ok\r\n");
                verdict(is_sent && got.body == GRPC_WEB)
            }
            WebSocketExtensions | WebSocketSubProtocols if self.client != Client::Http2 => {
                let (name, offer, choice) = if feature == WebSocketExtensions {
                    (
                        "Sec-WebSocket-Extensions",
                        "permessage-deflate; client_max_window_bits",
                        "permessage-deflate",
                    )
                } else {
                    ("Sec-WebSocket-Protocol", "chat, superchat", "superchat")
                };
                let mut connection = self.connect().await;
                let field = format!("{name}: {offer}\r\n");
                let head = websocket::handshake(&mut connection, &self.fake.host, "/ws-choice", &field).await;
                assert_eq!(head.status, 101);
                // A frame with the first reserved bit, which only an extension gives a meaning.
                connection.send(b"\xc1\x02hi").await;
                assert_eq!(connection.read_bytes(4).await, b"\xc1\x02hi");
                let is_offered = self.seen().await.contains(&format!("{name}: {offer}").to_ascii_lowercase());
                verdict(is_offered && head.headers[name.to_ascii_lowercase().as_str()] == choice)
            }
            HalfClosedClient if self.client != Client::Http2 => {
                let mut connection = self.connect().await;
                connection.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", self.fake.host)).await;
                connection.shutdown_write().await;
                let is_carried = connection.read_answer().await.text() == self.fake.id;
                connection.assert_closed().await;
                verdict(is_carried)
            }
            SilentStream => {
                let got = self.ask("GET", "/slow-events", &[], b"").await;
                verdict(got.body.ends_with(b"piece 3"))
            }
            EndOfSilence => {
                let got = timeout(
                    Duration::from_secs(10),
                    self.ask_once("/silent", &[("accept", "application/json")]),
                );
                verdict(got.await.expect("the silence has an end") == 504)
            }
            _ => NoSuchThing,
        }
    }

    /// Returns the status of an answer after which the connection may be closed.
    async fn ask_once(&self, path: &str, fields: &[(&str, &str)]) -> u16 {
        if self.client == Client::Http2 {
            return self.ask("GET", path, fields, b"").await.status;
        }
        let mut connection = self.connect().await;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.fake.host)).await;
        connection.read_answer().await.status
    }
}

#[tokio::test]
async fn each_feature_of_http_is_carried_as_the_table_says_to_an_instance_of_either_node() {
    each_feature_is_carried_as_the_table_says("pingora").await;
}

#[tokio::test]
async fn each_feature_of_http_is_carried_as_the_table_says_with_the_forwarder() {
    each_feature_is_carried_as_the_table_says("forwarder").await;
}

async fn each_feature_is_carried_as_the_table_says(engine: &str) {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", &*address), ("HTTP1_ENGINE", engine)];
    let (one, other) =
        (Server::with_fake_upstream(&settings).await, Server::with_fake_upstream(&settings).await);
    let (fake, book) = (one.acquire().await, one.acquire_of("book").await);
    for (feature, expected) in TABLE {
        for (client, expected) in CLIENTS.into_iter().zip(expected) {
            // One of the two runs the instance, the other forwards.
            let proofs = [&one, &other].map(|server| async {
                let visit = Visit { server, fake: &fake, book: &book, client };
                visit.prove(feature).await
            });
            let verdicts = futures_util::future::join_all(proofs).await;
            assert_eq!(verdicts, [expected, expected], "{feature:?} of {client:?}");
        }
    }
    let forwarded = async |server: &Server| {
        let page = server.call("GET", "/metrics", "").await.text();
        let line = page.lines().find_map(|line| line.strip_prefix("demo_requests_passed_on_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(forwarded(&one).await + forwarded(&other).await > 30, "a node forwards");
}
