//! The built-in sample app: a guest book, one for each instance.
//!
//! It is what a first click opens, and what tests send their traffic to: besides the page it has a live socket,
//! server-sent events, streams of any length in both directions, and a view of a request as it arrived. It trusts its
//! proxy and has no login.
//!
//! ```text
//! listener ── router ── page, html        GET /            the page, readable and usable without JavaScript
//!                    ├─ form, guest_book  POST /entries    validate, save (entry_store), 303
//!                    ├─ live              GET /live        WebSocket; GET /events: an event a second
//!                    ├─ streams           POST /upload, GET /download
//!                    └─ inspect           GET /whoami, GET /cookie
//! ```
//!
//! `app.rs` is what all connections share, `settings.rs` reads the environment, and `response.rs` builds responses.

mod app;
mod entry_store;
mod error;
mod form;
mod guest_book;
mod inspect;
mod listener;
mod live;
mod page;
mod response;
mod router;
mod settings;
mod streams;
#[cfg(test)]
mod tests;

pub(super) use listener::run_command;
#[cfg(test)]
pub(crate) use {listener::serve, settings::Settings};
