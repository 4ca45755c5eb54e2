//! Networks of instances: sealed namespaces, and namespaces with a link to the internet behind a firewall.
//!
//! | file | what it does |
//! |---|---|
//! | `namespaces` | makes sealed namespaces, and connects to apps in any namespace |
//! | `egress` | opens and releases links to the internet; their state after a crash |
//! | `links` | creates and removes veth pairs, by netlink |
//! | `addresses` | allocates addresses to links (pure) |
//! | `dns` | resolves the names of allow lists |
//! | `firewall_rules` | the firewall's table as text (pure) |
//! | `firewall` | that table in the kernel, by `nft` |
//!
//! A thread may have another network namespace than its process: this server's threads while they make or enter one,
//! and the threads of tests (`tests/backends/containerd/egress/virtual_network.rs`). So whatever belongs to the
//! namespace is read at `/proc/thread-self`, never at `/proc/self`.

mod addresses;
mod dns;
pub(super) mod egress;
mod firewall;
mod firewall_rules;
mod links;
pub(super) mod namespaces;
pub(super) mod set_up;
