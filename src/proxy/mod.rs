//! The proxy: the traffic of instances, between a visitor and the instance whose host the request names.
//!
//! Pingora carries everything but WebSockets, which hyper carries (`websocket.rs`), and HTTP/1.x to apps of this node,
//! where the server's own forwarder does (`HTTP1_ENGINE`). Files in reading order:
//!
//! | file | content |
//! |---|---|
//! | `service.rs` | [`Proxy`] and what it uses |
//! | `phases.rs` | Pingora's phases, with a chart of a request's life |
//! | `context.rs` | what is known of a request: its client, and whether another node sent it, by the hop header |
//! | `resolve_route.rs` | from a host's label to a live route: the route table, else the store |
//! | `request_permit.rs` | how many requests are carried at a time: for one instance, for one client, for all |
//! | `target.rs` | from a route to the app on this node, or to the node that runs the app |
//! | `app_peer.rs`, `node_peer.rs` | the upstream connection to an app, and to another node |
//! | `silence.rs` | how long an app may be silent: the type of its answer decides |
//! | `headers.rs` | the request headers that an app gets, and the response headers that a visitor gets |
//! | `head_changes.rs` | the same rules for heads that are edited line by line |
//! | `public_links.rs` | redirects to the app's own port or scheme become public |
//! | `local_exchange.rs` | all of the above for the server's own forwarder, which carries HTTP/1.1 to apps of this node |
//! | `websocket.rs` | WebSockets: the handshake, then a tunnel |
//! | `api_bridge.rs` | responses of this program on a connection that Pingora holds: those of the API, and errors |
//! | `exchange_error.rs` | which error a client receives when an exchange fails |
//! | `error_page.rs` | the response when no app responds, as a page or as JSON |
//! | `routes/` | the route table, and the task that keeps it equal to the store |
//!
//! **Architecture invariant:** for a host in the route table, the proxy finds the route without a lock and without the
//! store. If the store is away, requests for known hosts are served.
//!
//! **Architecture invariant:** two defects of Pingora 0.9 are worked around here, and both workarounds have tests.
//! After a change of Pingora's version, run the tests of WebSockets and of uploads (`tests/server/proxy/`).
//!
//! - Issue 946: a WebSocket ends right after the 101 if the app speaks first. So handshakes go to hyper, see
//!   [`Proxy::tunnel_websocket`].
//! - Issue 935: an HTTP/2 upload that ends with an empty frame writes a second chunk end into the shared upstream
//!   connection, see `Proxy::request_body_filter`.
//!
//! Trailers of HTTP/1.1 are left out by Pingora in both directions, so native gRPC gets no status
//! (`tests/server/proxy/features.rs`).

mod api_bridge;
mod app_peer;
mod context;
mod error_page;
mod exchange_error;
mod head_changes;
mod headers;
mod local_exchange;
mod node_peer;
mod phases;
mod public_links;
mod request_permit;
mod resolve_route;
pub mod routes;
mod service;
mod silence;
mod target;
mod websocket;

pub(crate) use local_exchange::{AnswerRules, LocalExchange, is_read};
pub use phases::Phases;
pub use request_permit::{RequestLimits, RequestMaxima, RequestPermit};
pub use service::{Proxy, ProxyParts};
pub use silence::watched;
pub use websocket::{HandshakeBody, Tunnels};
