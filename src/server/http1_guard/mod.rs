//! The guard in the read half of every HTTP/1 connection, in front of both engines.
//!
//! An engine is what answers requests: hyper for the API and for WebSockets, Pingora for all other traffic of
//! instances. An engine that reads through the guard gets one checked head and exactly the body of that head. It gets
//! nothing more until it reports the end of the exchange ([`ExchangeSignal::finish_exchange`]). So an engine never
//! holds a byte of a message that was not checked, and a message that two parsers could read differently never reaches
//! an engine. The write half passes bytes on unchanged.
//!
//! **Trap: checks on a parsed head are too late.** Both hyper and Pingora accept a bare LF, and both drop
//! `Content-Length` beside `Transfer-Encoding` without a word. Only the raw head shows these faults, so [`head`] checks
//! the raw bytes.
//!
//! **Trap: hyper drops the body of a response long before it writes the response.** The end of that body says nothing
//! about what the client got; `delivery_tracker` says how the guard finds out.
//!
//! | file | what it holds |
//! |---|---|
//! | `head/` | the check of one raw head; pure |
//! | `framing/` | the check of a body's framing; pure |
//! | `refusal` | the reasons for which a message is refused, and the status of each |
//! | `limits` | the largest sizes, and how long a client may take |
//! | `connection` | [`GuardedConnection`]: its parts, and how a caller ends the guard |
//! | `next_head` | the wait for a head that no engine reads yet, so that the caller can choose the engine |
//! | `read`, `read_state`, `read_buffer` | the read half: its steps, its states, its buffer |
//! | `write`, `deadlines` | the write half, and the timers of both halves |
//! | `exchange_signal` | how an engine reports the end of an exchange |
//! | `delivery_tracker`, `ack_observer` | how much of the response that assigns an instance reached the client |
//! | `pingora_io` | the other traits that Pingora requires of a connection |

mod ack_observer;
mod connection;
mod deadlines;
mod delivery_tracker;
mod exchange_signal;
pub(super) mod framing;
pub mod head;
mod limits;
mod next_head;
mod pingora_io;
mod read;
mod read_buffer;
mod read_state;
mod refusal;
#[cfg(test)]
mod tests;
mod write;

pub use connection::{GuardedConnection, HeadFilter};
pub use exchange_signal::ExchangeSignal;
pub use limits::{ClientTimeouts, MAX_HEAD_BYTES};
pub use next_head::{HeadInfo, NextHead};
pub use refusal::{Refusal, RefusalKind};
