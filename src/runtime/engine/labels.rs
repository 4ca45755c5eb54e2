//! Labels on containers and networks. A newer server finds what an older one left by them, so their names and values
//! must not change.

use std::collections::HashMap;

use crate::instance::{InstanceId, NodeId};

/// Label with the id of the node. Node ids are random and locked on disk, so two servers never have the same one.
pub(super) const NODE_LABEL: &str = "try-it-now.node";

/// Label with the id of the instance.
pub(super) const INSTANCE_LABEL: &str = "try-it-now.instance";

/// Label with the number of the container's network namespace, as its server counts them; absent where the engine
/// publishes a port.
pub(super) const NAMESPACE_LABEL: &str = "try-it-now.namespace";

/// Returns the labels of an instance's container.
pub(super) fn of_instance(node: &NodeId, id: &InstanceId, namespace: Option<u32>) -> HashMap<String, String> {
    let namespace = namespace.map(|number| (NAMESPACE_LABEL.to_owned(), number.to_string()));
    let labels = [(NODE_LABEL, node.as_str()), (INSTANCE_LABEL, id.as_str())];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().chain(namespace).collect()
}

/// Returns the filter that selects what belongs to a node, or with `None` to any node.
pub(super) fn node_filter(node: Option<&NodeId>) -> HashMap<String, Vec<String>> {
    let label = node.map_or_else(|| NODE_LABEL.to_owned(), |node| format!("{NODE_LABEL}={node}"));
    HashMap::from([("label".to_owned(), vec![label])])
}

/// Returns the filter that selects the container of an instance.
pub(super) fn instance_filter(node: &NodeId, id: &InstanceId) -> HashMap<String, Vec<String>> {
    let labels = vec![format!("{NODE_LABEL}={node}"), format!("{INSTANCE_LABEL}={id}")];
    HashMap::from([("label".to_owned(), labels)])
}
