//! Which instances have user ids of their own.

/// Whether each instance of the containerd runtime has a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserNamespaces {
    /// Where this host can do it. Elsewhere instances start without one, and the log says why.
    #[default]
    Auto,
    /// Each has one. Where this host cannot do it, no instance starts.
    Required,
    /// None has one.
    Off,
}
