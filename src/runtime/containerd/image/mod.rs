//! Images: from a name to what a container needs of it, the snapshot of its layers and how to run it.
//!
//! | file | what it does |
//! |---|---|
//! | `images` | the images of this server, each fetched once |
//! | `registry` | pulls from a registry, with logins |
//! | `transfer` | transfers into containerd, and imports of archives |
//! | `manifest` | reads what an image says about itself |
//! | `layers` | looks up files in the layers of an image |
//! | `snapshots` | layers in containerd: prepared, mounted, committed, removed |

mod images;
pub(super) mod layers;
mod manifest;
mod registry;
pub(super) mod snapshots;
mod transfer;

pub(super) use images::Images;
pub(super) use manifest::UnpackedImage;
