//! Assigning an instance to a visitor. `acquire` is the operation of the API; a *claim* is the store's atomic step in
//! it.
//!
//! | file | content |
//! |---|---|
//! | `state.rs` | [`Claims`]: what claims keep |
//! | `acquire.rs` | the operation: claims, and waits while nothing is ready |
//! | `wait_queue.rs` | the visitors who wait, in the order of their arrival |
//! | `refused_visitors.rs` | the visitors whom a rate limit refused |
//! | `delivery.rs` | how far the answer to a claim got |
//! | `delivery_worker.rs` | confirms the claims whose answers arrived, and undoes the others |

pub(super) mod acquire;
pub(super) mod delivery;
pub(super) mod delivery_worker;
pub(super) mod refused_visitors;
mod state;
pub(super) mod wait_queue;

pub use state::Claims;
