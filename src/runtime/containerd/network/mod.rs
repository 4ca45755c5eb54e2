//! TODO

pub(super) mod addresses;
pub(super) mod dns;
pub(super) mod egress;
pub(super) mod firewall;
pub(super) mod firewall_rules;
pub(super) mod links;
pub(super) mod namespaces;
