//! Networks of instances: sealed namespaces, namespaces with a link to the internet behind a firewall, and the way to a
//! database.
//!
//! | file | what it does |
//! |---|---|
//! | `egress` | opens and releases links to the internet; their state after a crash |
//! | `refresh` | keeps names, routes and firewall as they should be |
//! | `inner_end` | the instance's end of a link: namespace, routes, name server |
//! | `database_port` | the port inside a namespace at which an app reaches its database server |
//! | `forwarding` | what egress needs of this host's own network |
//! | `links` | creates and removes veth pairs, by netlink |
//! | `addresses` | allocates addresses to links (pure) |
//! | `routes` | the routes inside a namespace: the wall that holds without the firewall |
//! | `dns` | resolves the names of allow lists |
//! | `dns_responder` | the name server of an instance with an allow list |
//! | `forbidden` | the addresses of the store, the nodes and this host, closed to all instances |
//! | `firewall_rules` | the firewall's table as text (pure) |
//! | `firewall` | that table in the kernel, by `nft` |
//!
//! A thread may have another network namespace than its process: this server's threads while they make or enter one,
//! and the threads of tests (`tests/backends/containerd/egress/virtual_network.rs`). So whatever belongs to the
//! namespace is read at `/proc/thread-self`, never at `/proc/self`.

mod addresses;
pub(super) mod database_port;
mod dns;
mod dns_responder;
pub(super) mod egress;
mod firewall;
mod firewall_rules;
mod forbidden;
mod forwarding;
mod inner_end;
mod links;
mod refresh;
mod reserved_links;
mod routes;
pub(super) mod set_up;
