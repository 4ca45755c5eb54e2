//! Servers that share a Valkey.

mod databases;
mod membership;
mod node_forwarding;
mod node_secret;
mod queue;
mod status_streams;
mod valkey;

mod heavy {
    mod network_partition;
    mod node_crashes;
}
