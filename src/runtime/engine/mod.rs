//! The engine runtime: an instance is a started container of Docker or of Podman.
//!
//! | file | what it does |
//! |---|---|
//! | `runtime`, `inner` | the trait's implementation, and the state that its operations share |
//! | `settings` | the runtime's settings: which engine, where its socket may be |
//! | `connection` | finds the socket that answers and agrees on a version of the API; `survey` describes the engine |
//! | `failure` | what an engine's errors mean, with what to do |
//! | `images`, `pull`, `archive_stream` | from an image's name to what a container needs of it |
//! | `labels` | how containers of this node are found: by labels, never by name |
//! | `identity_folder` | the files that tell an instance which one it is, where containers mount them |
//! | `request_body` | from a template's app to the request that makes its container (pure) |
//! | `start`, `stop`, `exec`, `output` | starts and ends an instance, runs commands in it, reads its output |
//! | `inspect` | what the engine says about one container |
//! | `instances` | the instances of this runtime |
//! | `events` | notices containers that ended, by the engine's events and by its list of containers |
//! | `memory` | what the instances use of the host's memory |
//! | `takeover` | after a crash: adopts what runs and removes the rest; `clean` removes all of some nodes |
//!
//! **How an app is reached.** A server that may enter network namespaces makes its sockets inside the container's: a
//! sealed instance has a loopback and nothing else, and no port of the host is used. Any other server has the engine
//! publish a port on 127.0.0.1, which needs a network with a way out, so only templates with `egress` start there.
//!
//! **What is the truth.** Events may be lost: with a connection, with a restart of the engine. So every subscription is
//! followed by a comparison with the list of containers, which is repeated now and then. An exit that was seen twice is
//! handled once.
//!
//! **Traps.** Podman has states that bollard does not know (`inspect`), and loses file systems (`start`). An exit status
//! above 125 of a command may be the engine's own (`exec`). Docker loads no OCI layout before version 25
//! (`archive_stream`), and Podman loads one without its name (`images`).
//!
//! A newer server takes over what an older one left: the labels must not change.

mod archive_stream;
mod connection;
mod events;
mod exec;
mod failure;
mod identity_folder;
mod images;
mod inner;
mod inspect;
mod instances;
mod labels;
mod memory;
mod output;
mod pull;
mod request_body;
mod runtime;
mod settings;
mod start;
mod stop;
mod takeover;

pub use connection::{EngineSurvey, survey};
pub use runtime::EngineRuntime;
pub use settings::{EngineKind, EngineSettings, Reach};
pub use takeover::clean;
