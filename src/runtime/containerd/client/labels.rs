//! Labels on what this runtime stores in containerd. A newer server finds what an older one left by these labels
//! (`takeover/`), so their names and values must not change.

/// Label of everything that this runtime stores in containerd. The value is the node's id, or [`ALL_NODES`].
pub(crate) const NODE_LABEL: &str = "try-it-now/node";

/// Value of [`NODE_LABEL`] on what belongs to no node: the containers that keep a shared shim alive.
pub(crate) const ALL_NODES: &str = "all";

/// Label with the number of a container's network namespace, as its server counts them.
pub(crate) const NAMESPACE_LABEL: &str = "try-it-now/namespace";

/// Label with the key of the checkpoint from which a container was restored.
pub(crate) const CHECKPOINT_LABEL: &str = "try-it-now/checkpoint";

/// Label with the path of the program that a container's shim runs in place of runc.
pub(crate) const RESTORER_LABEL: &str = "try-it-now/restorer";

/// Label with the id of the node that made a shared shim.
pub(crate) const MAKER_LABEL: &str = "try-it-now/maker";

/// Returns the filter that selects what belongs to a node, or with `None` to any node.
pub(crate) fn node_filter(node: Option<&str>) -> String {
    match node {
        Some(node) => format!("labels.\"{NODE_LABEL}\"==\"{node}\""),
        None => format!("labels.\"{NODE_LABEL}\""),
    }
}
