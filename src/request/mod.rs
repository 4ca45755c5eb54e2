//! How a request's head is read: whose host it names, who sent it, and its id. Pure rules that both engines call
//! on the head that they parsed themselves.

mod client_addr;
mod host;
mod in_flight;
/// One request on a connection of its own.
pub mod one_shot;
mod request_id;
mod tcp_ack;

pub use client_addr::{ClientAddr, forwarded_for};
pub use host::{Destination, Hosts, authority, canonical_host};
pub use in_flight::{InFlightGuard, InFlightRequests};
pub use request_id::RequestId;
pub use tcp_ack::{AckState, Written};
