//! Calls to containerd: gRPC services in a namespace of this program, each call with a deadline.
//!
//! | file | what it does |
//! |---|---|
//! | `connection` | connections, requests, errors |
//! | `labels` | the labels on what this runtime stores in containerd |
//! | `runc_options` | the messages of runc's shim |

mod connection;
pub(super) mod labels;
pub(super) mod runc_options;

pub(super) use connection::{
    Client, DEADLINE, NAMESPACE, ResponseExt, next_message, request, request_with_deadline,
    request_without_deadline,
};
