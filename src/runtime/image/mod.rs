//! What images say about themselves, whatever stores them: archives, configurations, health checks, users.
//!
//! | file | what it does |
//! |---|---|
//! | `archive` | archives of images, in the forms that tools write |
//! | `layout` | the files of an OCI layout that name an image (pure) |
//! | `config` | how an image says it is run (pure) |
//! | `health` | the health check that an image declares (pure) |
//! | `users` | the users and groups of an image (pure) |

mod archive;
mod config;
mod health;
mod layout;
mod users;

pub(super) use archive::Archive;
pub(super) use config::ImageConfig;
pub(super) use layout::{HOST_OS, MAX_BLOB_BYTES, Manifest, find_for_host, host_architecture};
pub(super) use users::{ContainerUser, UserFiles};
