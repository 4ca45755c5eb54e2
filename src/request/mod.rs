//! The rules for a request's head that all engines share: which host it names, which client sent it, its id. Each
//! engine calls them on the head that it parsed itself. Also what both engines record of a request while it is in
//! flight.
//!
//! | file | what it holds |
//! |---|---|
//! | `host` | [`Hosts::destination`], the only routing rule: the API, one instance, or an error |
//! | `context` | [`RequestContext`]: what is known of a request before anything answers it |
//! | `client_addr` | the client's address, and which forwarded headers are trusted |
//! | `client_permits` | how much one client may use at a time |
//! | `budget` | how much all clients together may use at a time |
//! | `request_id` | the id of a request |
//! | `in_flight` | counts the requests in flight, for the shutdown |
//! | `tcp_ack` | whether the client's kernel acknowledged a response |
//! | `one_shot` | sends one request on a connection of its own, for ready checks, hooks and peers |

mod budget;
mod client_addr;
mod client_permits;
mod context;
mod host;
mod in_flight;
pub(crate) mod one_shot;
mod request_id;
mod tcp_ack;

pub use budget::{Budget, BudgetPermit, UNREAD_RESPONSE_BYTES};
pub use client_addr::{
    ClientAddr, FORWARDED_FOR, FORWARDED_PROTO, client_network, forwarded_for, has_proxy_fields, visitor_at,
};
pub use client_permits::{ClientPermit, ClientPermits};
pub use context::{Peer, Provenance, RequestContext};
pub use host::{Destination, Hosts, authority, canonical_host};
pub use in_flight::{InFlightGuard, InFlightRequests};
pub use request_id::RequestId;
pub use tcp_ack::{AckState, BytesWritten, is_reset};
