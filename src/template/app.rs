//! The app of a template: what each instance runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Egress, ImageRef, ResourceLimits, RuntimeHandler};

/// The part of a template that a runtime needs. Its JSON is hashed into the template's
/// [revision](super::Template::revision), so a renamed field makes all existing instances outdated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct App {
    /// The image that containers are made from; `None` for an app that is a command on this host.
    pub image: Option<ImageRef>,
    /// Program and arguments. A program without a slash is looked up in `PATH`; a relative path is resolved in the
    /// instance's working directory. With an image, a command replaces both the image's entrypoint and its arguments,
    /// and an empty command means the image's own. Without an image, the command is never empty.
    pub command: Vec<String>,
    /// The port that the app listens on inside its container. 0 without an image, because then each instance gets its
    /// own port in `PORT`.
    pub port: u16,
    /// Additional environment variables.
    pub env: BTreeMap<String, String>,
    /// A folder whose contents are copied into each instance's working directory. `None` with an image.
    pub files: Option<PathBuf>,
    /// The resource limits of one instance.
    pub limits: ResourceLimits,
    /// What instances may reach on the internet. Without an image the value is `Sealed` and has no effect: a command on
    /// this host reaches what the host reaches.
    #[serde(skip_serializing_if = "Egress::is_sealed")]
    pub egress: Egress,
    /// Whether instances that are restored from the checkpoint share memory. Containers only.
    #[serde(skip_serializing_if = "ShareMemory::is_auto")]
    pub share_memory: ShareMemory,
    /// What starts the containers. Instances of a template with a handler are started and never restored. Containers
    /// only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeHandler>,
}

/// Whether instances that are restored from one checkpoint share the memory that they do not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ShareMemory {
    /// Memory is shared unless a property of the app forbids it.
    #[default]
    Auto,
    /// No memory is shared.
    Off,
    /// Like `Auto`. In addition, anonymous memory that several processes of the app mapped shared (`MAP_SHARED` with
    /// `MAP_ANONYMOUS`) becomes private to each process of a restored instance. This is right for a cache and wrong for
    /// memory through which the processes communicate.
    WithShm,
}

impl ShareMemory {
    /// Returns whether sharing is switched off.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}
