//! The one port: accepts connections, checks each head, lets the right engine answer. This folder also assembles the
//! parts of a server and shuts them down.
//!
//! The files in reading order:
//!
//! | file | what it does |
//! |---|---|
//! | `bootstrap` | the composition root: starts a server, runs it, shuts it down |
//! | `backends` | creates the configured store and runtime; the only file that names concrete backends |
//! | `state_dir` | this node's folder: its id, its lock, its files |
//! | `listener` | accepts connections, up to the maxima of `client_connections` |
//! | `client_connections` | counts the connections of each client |
//! | `client_socket` | one connection in the clear |
//! | `forbidden_hosts` | the hosts that no instance reaches: of the store and the nodes |
//! | `descriptors` | the limit of open files, and how many connections fit into it |
//! | `tls`, `tls_connection` | terminates TLS, and reloads the certificate when its files change |
//! | `http1_guard/` | the guard: passes one checked message at a time to an engine |
//! | `dispatch` | chooses the engine of a connection |
//! | `hyper_engine` | answers for the API and opens WebSocket tunnels |
//! | `pingora_engine` | forwards all other requests of instances |
//! | `wire_format` | a whole response as bytes, where no engine writes it |
//! | `handover/` | another process takes the place of this one |
//! | `service_manager` | what systemd learns of the server |
//! | `start_error` | why a server does not start |
//! | `shutdown` | signals, and the order in which a server stops |

pub mod backends;
pub mod bootstrap;
mod client_connections;
mod client_socket;
pub(crate) mod descriptors;
mod dispatch;
mod forbidden_hosts;
mod forwarder;
pub(crate) mod handover;
pub mod http1_guard;
mod hyper_engine;
mod listener;
mod pingora_engine;
mod service_manager;
mod shutdown;
pub mod start_error;
pub mod state_dir;
#[cfg(test)]
mod tests;
mod tls;
mod tls_connection;
mod wire_format;
