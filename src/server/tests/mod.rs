//! Tests of whole servers in this process.

mod node_forwarding;
