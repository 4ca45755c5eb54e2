//! How a request's head is read: whose host it names, who sent it, and its id. Pure rules that both engines call
//! on the head that they parsed themselves.

mod client;
mod host;
mod id;
mod receipt;
mod under_way;

pub use client::{Client, forwarded_for};
pub use host::{Hosts, Side, authority, canonical_host};
pub use id::RequestId;
pub use receipt::{Receipt, Written};
pub use under_way::{Passage, UnderWay};
