//! The end of instances. Which transitions end an instance is shown in one table in [`crate::instance`].
//!
//! | file | content |
//! |---|---|
//! | `release.rs` | a visitor gives an instance back; the app is stopped in the background |
//! | `expire.rs` | deadlines pass |
//! | `fail.rs` | an instance's process dies |
//! | `cleanup.rs` | the job of removing an instance that could not be stopped |
//! | `gc.rs` | what runs and what is on record are made to agree; unwanted instances are retired |
//! | `databases.rs` | the database of an instance is dropped, and so are those without an instance |
//! | `shutdown.rs` | the server process stops |
//! | `hand_over.rs` | another server process takes the place of this one |

pub(super) mod cleanup;
pub(super) mod databases;
pub(super) mod expire;
pub(super) mod fail;
pub(super) mod gc;
mod hand_over;
pub(super) mod release;
pub(super) mod shutdown;
