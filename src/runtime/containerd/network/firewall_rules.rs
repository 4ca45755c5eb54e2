//! The firewall's table as text for `nft`. Pure.
//!
//! The rules never change while the table exists; the instances are elements of its sets. What an instance sends is
//! judged packet by packet and never by `ct state established`: its address may have had other rights a minute ago, and
//! connections outlive them.
//!
//! The first packet of a UDP exchange is one whose entry in connection tracking is not confirmed yet. All packets before
//! an answer are `new` to `ct state`.
//!
//! A server replaces the table of the one before only when it starts. The doctor's trial of `nft`
//! (`cli/doctor/network.rs`) must use what this table uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::template::egress::{BLOCKED_NETWORKS, Ipv4Network, LINK_PREFIX, MAIL_PORTS};

/// Most connections of one instance at a time, so that it cannot fill this host's connection tracking.
const MAX_CONNECTIONS: u32 = 1024;

/// For how many seconds an instance that was quiet may exceed its rates twofold.
const BURST_SECONDS: u32 = 2;

/// Prefix of the names of this program's tables; the node's id follows. A newer server finds an older one's table by
/// it.
pub(super) const TABLE_PREFIX: &str = "try-it-now-";

/// The parts of the table that do not change while a server runs.
#[derive(Debug, Clone)]
pub(super) struct TableConfig {
    /// Name of this node's table.
    pub(crate) table: String,
    /// Prefix of the names of this node's links.
    pub(super) link_prefix: String,
    /// The range of the instances' addresses.
    pub(crate) range: Ipv4Network,
    /// Name servers that instances may ask if they may reach all public addresses.
    pub(crate) resolvers: Vec<Ipv4Addr>,
    /// Most packets that an instance sends in a second.
    pub(crate) max_packets: u32,
    /// Most connections that an instance opens in a second.
    pub(crate) max_new_connections: u32,
}

/// What the firewall knows of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstanceRules {
    /// The instance's address, the only one from which it may send.
    pub(crate) address: Ipv4Addr,
    /// What it may reach.
    pub(crate) destinations: AllowedDestinations,
}

/// The destinations that an instance may reach, with resolved names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AllowedDestinations {
    /// All public addresses.
    AnyPublic,
    /// Only these ports of these addresses, and no name server: see `dns_responder`.
    Only(BTreeSet<(Ipv4Addr, u16)>),
}

/// All instances, by the names of this host's ends of their links.
pub(super) type RulesByLink = BTreeMap<String, InstanceRules>;

impl TableConfig {
    /// Returns the whole table, which replaces an existing one.
    pub(super) fn full_table(&self, instances: &RulesByLink, forbidden: &BTreeSet<Ipv4Addr>) -> String {
        let Self { table, link_prefix, range, resolvers, max_packets, max_new_connections } = self;
        let links = format!("\"{link_prefix}*\"");
        let never = braces(&BLOCKED_NETWORKS);
        let mail = braces(&MAIL_PORTS);
        // Braces without an element are an error.
        let resolvers = match resolvers.as_slice() {
            [] => String::new(),
            some => format!("elements = {};", braces(some)),
        };
        let foreign = format!("\"{LINK_PREFIX}*\"");
        let no = "reject with icmp admin-prohibited";
        let meter = "type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m;";
        let rate = |count: u32| {
            format!("limit rate over {count}/second burst {} packets", count.saturating_mul(BURST_SECONDS))
        };
        let (packets, new) = (rate(*max_packets), rate(*max_new_connections));
        let mut text = format!(
            "{delete}table inet {table} {{
  set instances {{ type ifname . ipv4_addr; }}
  set open {{ type ifname; }}
  set allowed {{ type ifname . ipv4_addr . inet_service; }}
  set resolvers {{ type ipv4_addr; {resolvers} }}
  set never {{ type ipv4_addr; flags interval; elements = {never}; }}
  set forbidden {{ type ipv4_addr; }}
  set packets {{ {meter} }}
  set opened {{ {meter} }}
  set flows {{ {meter} }}
  set connections {{ type ipv4_addr; size 65535; flags dynamic; }}
  chain arrival {{
    type filter hook prerouting priority raw; policy accept;
    iifname {links} meta nfproto != ipv4 drop
    iifname {links} iifname . ip saddr != @instances drop
    iifname {links} update @packets {{ ip saddr {packets} }} drop
    iifname {links} tcp flags & (syn | ack) == syn update @opened {{ ip saddr {new} }} drop
  }}
  chain host {{
    type filter hook input priority filter; policy accept;
    iifname {links} {no}
  }}
  chain from_host {{
    type filter hook output priority filter; policy accept;
    oifname {links} ct state new drop
  }}
  chain passage {{
    type filter hook forward priority filter; policy accept;
    iifname {links} jump outward
    oifname {links} jump inward
  }}
  chain inward {{
    ct direction reply ct state established accept
    ct state related meta l4proto icmp accept
    drop
  }}
  chain outward {{
    oifname {foreign} {no}
    ct status dnat {no}
    ct state new add @connections {{ ip saddr ct count over {MAX_CONNECTIONS} }} {no}
    meta l4proto != tcp ct status & confirmed == 0 update @flows {{ ip saddr {new} }} drop
    iifname @open ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @never {no}
    ip daddr @forbidden {no}
    meta l4proto {{ tcp, udp }} th dport {mail} {no}
    meta l4proto {{ tcp, udp }} iifname . ip daddr . th dport @allowed accept
    meta l4proto {{ tcp, udp }} th dport 53 {no}
    iifname @open meta l4proto {{ tcp, udp, icmp }} accept
    {no}
  }}
  chain departure {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {range} oifname != {foreign} masquerade
  }}
}}
",
            delete = self.delete(),
        );
        text += &self.change_forbidden(&BTreeSet::new(), forbidden);
        for (link, rules) in instances {
            text += &self.add_instance(link, rules);
        }
        text
    }

    /// Returns the commands that delete the table, whether it exists or not.
    pub(crate) fn delete(&self) -> String {
        delete_table(&self.table)
    }

    /// Returns the commands that add an instance to the sets.
    pub(super) fn add_instance(&self, link: &str, rules: &InstanceRules) -> String {
        self.elements("add", link, rules)
    }

    /// Returns the commands that remove an instance from the sets.
    pub(crate) fn remove_instance(&self, link: &str, rules: &InstanceRules) -> String {
        self.elements("delete", link, rules)
    }

    /// Returns the commands that change the destinations of an instance that may reach only some.
    pub(super) fn change_destinations(
        &self,
        link: &str,
        old: &BTreeSet<(Ipv4Addr, u16)>,
        new: &BTreeSet<(Ipv4Addr, u16)>,
    ) -> String {
        let added = self.destination_elements("add", link, new.difference(old));
        self.destination_elements("delete", link, old.difference(new)) + &added
    }

    /// Returns the commands that change the addresses that no instance reaches.
    pub(super) fn change_forbidden(&self, old: &BTreeSet<Ipv4Addr>, new: &BTreeSet<Ipv4Addr>) -> String {
        let line = |verb: &str, addresses: Vec<&Ipv4Addr>| match addresses.is_empty() {
            true => String::new(),
            false => format!("{verb} element inet {} forbidden {}\n", self.table, braces(&addresses)),
        };
        line("delete", old.difference(new).collect()) + &line("add", new.difference(old).collect())
    }

    fn elements(&self, verb: &str, link: &str, rules: &InstanceRules) -> String {
        let table = &self.table;
        let mut text =
            format!("{verb} element inet {table} instances {{ \"{link}\" . {} }}\n", rules.address);
        match &rules.destinations {
            AllowedDestinations::AnyPublic => {
                // Writing into a string cannot fail.
                let _ = writeln!(text, "{verb} element inet {table} open {{ \"{link}\" }}");
            }
            AllowedDestinations::Only(destinations) => {
                text += &self.destination_elements(verb, link, destinations.iter());
            }
        }
        text
    }

    fn destination_elements<'a>(
        &self,
        verb: &str,
        link: &str,
        destinations: impl Iterator<Item = &'a (Ipv4Addr, u16)>,
    ) -> String {
        let destinations: Vec<_> =
            destinations.map(|(address, port)| format!("\"{link}\" . {address} . {port}")).collect();
        match destinations.is_empty() {
            true => String::new(),
            false => {
                format!("{verb} element inet {} allowed {{ {} }}\n", self.table, destinations.join(", "))
            }
        }
    }
}

/// Returns the commands that delete a table, whether it exists or not: to add an existing one is no error, and then it
/// can be deleted.
pub(super) fn delete_table(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn braces(elements: &[impl ToString]) -> String {
    let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", elements.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TableConfig {
        TableConfig {
            table: "try-it-now-node-1".to_owned(),
            link_prefix: "tinabcde".to_owned(),
            range: Ipv4Network::containing("10.213.0.0".parse().unwrap(), 16),
            resolvers: vec!["9.9.9.9".parse().unwrap()],
            max_packets: 20_000,
            max_new_connections: 200,
        }
    }

    fn rules(destinations: AllowedDestinations) -> InstanceRules {
        InstanceRules { address: "10.213.0.3".parse().unwrap(), destinations }
    }

    fn destinations(list: &[(&str, u16)]) -> BTreeSet<(Ipv4Addr, u16)> {
        list.iter().map(|(address, port)| (address.parse().unwrap(), *port)).collect()
    }

    #[test]
    fn the_rules_do_not_depend_on_the_instances() {
        let config = config();
        let instances = RulesByLink::from([("tinabcde1".to_owned(), rules(AllowedDestinations::AnyPublic))]);
        let none = BTreeSet::new();
        let (empty, one) =
            (config.full_table(&RulesByLink::new(), &none), config.full_table(&instances, &none));
        assert_eq!(
            one.strip_prefix(&empty).unwrap(),
            config.add_instance("tinabcde1", &instances["tinabcde1"])
        );
        assert!(empty.starts_with("add table inet try-it-now-node-1\ndelete table inet try-it-now-node-1\n"));
        assert!(empty.contains("169.254.0.0/16") && empty.contains("th dport { 25, 465, 587 } reject"));
    }

    #[test]
    fn an_instance_is_removed_from_the_sets_that_it_was_added_to() {
        let config = config();
        for destinations in [
            AllowedDestinations::AnyPublic,
            AllowedDestinations::Only(destinations(&[("198.51.100.1", 443), ("198.51.100.2", 80)])),
            AllowedDestinations::Only(destinations(&[])),
        ] {
            let rules = rules(destinations);
            let admitted = config.add_instance("tinabcde1", &rules);
            assert_eq!(
                config.remove_instance("tinabcde1", &rules),
                admitted.replace("add element", "delete element")
            );
            assert!(admitted.contains("instances { \"tinabcde1\" . 10.213.0.3 }"));
        }
    }

    #[test]
    fn only_changed_destinations_are_updated() {
        let (old, new) = (
            destinations(&[("198.51.100.1", 80), ("198.51.100.2", 80)]),
            destinations(&[("198.51.100.2", 80)]),
        );
        let config = config();
        assert_eq!(
            config.change_destinations("tinabcde1", &old, &new),
            "delete element inet try-it-now-node-1 allowed { \"tinabcde1\" . 198.51.100.1 . 80 }\n"
        );
        assert_eq!(config.change_destinations("tinabcde1", &new, &new), "");
    }

    #[test]
    fn forbidden_addresses_come_after_resolvers_and_before_everything_that_is_allowed() {
        let config = config();
        let forbidden = BTreeSet::from(["198.51.100.9".parse().unwrap()]);
        let table = config.full_table(&RulesByLink::new(), &forbidden);
        let at = |text: &str| table.find(text).unwrap();
        assert!(at("daddr @resolvers") < at("daddr @forbidden"));
        assert!(at("daddr @forbidden") < at("@allowed accept"));
        let added = "add element inet try-it-now-node-1 forbidden { 198.51.100.9 }\n";
        assert!(table.ends_with(added));
        assert_eq!(
            config.change_forbidden(&forbidden, &BTreeSet::new()),
            added.replace("add element", "delete element")
        );
        assert_eq!(config.change_forbidden(&forbidden, &forbidden), "");
    }
}
