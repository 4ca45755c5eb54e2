//! Try It Now: private, warm copies of an app behind one port.
//!
//! Two stories run through this crate, and its modules are listed in their order.
//!
//! **A request:** it is accepted, its head is checked, its host is found; then either the API answers, or the proxy
//! forwards it to the instance that owns the host.
//!
//! **An instance:** `warming -> ready -> assigned -> expired -> gone`. The pool makes it from a template, hands it
//! to one visitor once, and throws it away.

// A request, in order.

/// The one port: accept, check heads, choose an engine; how the parts are put together and taken down.
pub mod server;

/// Whose host a request names, who sent it, its id: rules that both engines share.
pub mod request;

/// The API, by hyper: one endpoint a file.
pub mod api;

/// An instance's traffic, by Pingora; WebSockets by ourselves.
pub mod proxy;

/// Which host leads where: the table that the proxy reads without a lock.
pub mod routes;

/// The servers that share a store: who is there and where, and what makes a request one of theirs.
pub mod nodes;

/// What people see of us in HTML.
pub mod pages;

// An instance, in order.

/// The rules of its life, without IO.
pub mod instance;

/// The decisions: how many there are, who gets one, when it ends.
pub mod pool;

// What they stand on: one trait a folder, an embedded implementation and (later) a real one.

/// What all servers agree on.
pub mod store;

/// What runs instances.
pub mod runtime;

// Known to all.

/// What the operator wants.
pub mod config;

/// What this host can do for it.
pub mod doctor;

/// The present.
pub mod clock;

/// The one way to start a task.
pub mod task;

/// Log lines and metrics.
pub mod telemetry;

/// Text made safe for pages.
mod html;

/// Bytes as text.
mod hex;

/// One request on a connection of its own.
mod exchange;

/// The app that is built in, to demo and to test with.
pub mod sample_app;
