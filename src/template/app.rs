//! What an instance runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Egress, Image, ResourceLimits};

/// What to run: the part of a template that a runtime needs. Serialised to compare versions of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct App {
    /// The image that its containers are made from; `None` for an app that is a command on this host.
    pub image: Option<Image>,
    /// Program and arguments. A program without a slash is looked up in `PATH`; a relative one starts in the
    /// instance's working directory. Empty only with an image, and then the image's own is meant; else it takes the
    /// place of both the image's entrypoint and its arguments.
    pub command: Vec<String>,
    /// Where the app listens inside its container; 0 without an image, for then each instance is told its own.
    pub port: u16,
    /// Additional environment.
    pub env: BTreeMap<String, String>,
    /// A folder whose contents each instance gets a copy of, as its working directory. `None` with an image.
    pub files: Option<PathBuf>,
    /// What one instance may use.
    pub limits: ResourceLimits,
    /// What its instances may reach. Sealed without an image, which here means that nobody takes care of it.
    #[serde(skip_serializing_if = "Egress::is_sealed")]
    pub egress: Egress,
    /// Whether copies of its checkpoint share their memory. Only where instances are containers.
    #[serde(skip_serializing_if = "ShareMemory::is_auto")]
    pub share_memory: ShareMemory,
}

/// Whether the copies of a checkpoint share the memory that they do not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ShareMemory {
    /// Where nothing in the app speaks against it.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Like `Auto`, and each process of a copy has for itself, from then on, what it had in common with others without a
    /// name: right for a cache, wrong for what processes tell each other that way.
    WithShm,
}

impl ShareMemory {
    /// Whether copies are never to share.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}
