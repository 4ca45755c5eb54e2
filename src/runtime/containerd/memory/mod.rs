//! Clones that share their memory: a checkpoint is rewritten so that what its processes had in private memory becomes a
//! private mapping of files that all clones have in common. A clone costs only what it changes.
//!
//! | a file | what it knows |
//! |---|---|
//! | `image`, `message` | CRIU's image files |
//! | `plan` | which memory is shared, and where its pages go |

#![allow(dead_code, reason = "nothing rewrites a checkpoint yet")]

mod image;
mod message;
mod plan;
