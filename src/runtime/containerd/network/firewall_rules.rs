//! The firewall's table as text for `nft`. Pure.
//!
//! The rules never change while the table stands; who is in it are elements of its sets. What an instance sends is
//! judged packet by packet and not by the connection that it claims to belong to, so that an address that had other
//! rights before leaves none of them behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::template::egress::{BLOCKED_NETWORKS, Ipv4Network, LINK_PREFIX, MAIL_PORTS};

/// Connections that one instance may have at a time, that it does not use up what this host can keep track of.
const CONNECTIONS: u32 = 1024;

/// What all that is ours in nftables begins with; the node's name follows.
pub(crate) const TABLE_PREFIX: &str = "try-it-now-";

/// What stays the same as long as a server runs.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    /// The name of the table, this node's own.
    pub(crate) table: String,
    /// What the names of this node's links begin with.
    pub(crate) links: String,
    /// The addresses of instances.
    pub(crate) range: Ipv4Network,
    /// Who may be asked for names.
    pub(crate) resolvers: Vec<Ipv4Addr>,
}

/// An instance with a way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceRules {
    /// Its own address, the only one that it may send from.
    pub(crate) address: Ipv4Addr,
    /// What it may reach.
    pub(crate) way: OutboundInterface,
}

/// What an instance may reach, names resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutboundInterface {
    /// All public addresses.
    Open,
    /// These ports of these addresses.
    Only {
        places: BTreeSet<(Ipv4Addr, u16)>,
        /// Whether it may ask for names.
        asks: bool,
    },
}

/// All guests by the names of this host's ends of their links.
pub(crate) type Guests = BTreeMap<String, InstanceRules>;

impl Fixed {
    /// The whole table, in place of the one that may stand.
    pub(crate) fn whole(&self, guests: &Guests) -> String {
        let Self { table, links, range, resolvers } = self;
        let links = format!("\"{links}*\"");
        let never = braces(&BLOCKED_NETWORKS);
        let mail = braces(&MAIL_PORTS);
        // Braces with nothing between are an error.
        let resolvers = match resolvers.as_slice() {
            [] => String::new(),
            some => format!("elements = {};", braces(some)),
        };
        let foreign = format!("\"{LINK_PREFIX}*\"");
        let no = "reject with icmp admin-prohibited";
        let mut text = format!(
            "{gone}table inet {table} {{
  set instances {{ type ifname . ipv4_addr; }}
  set asking {{ type ifname; }}
  set open {{ type ifname; }}
  set allowed {{ type ifname . ipv4_addr . inet_service; }}
  set resolvers {{ type ipv4_addr; {resolvers} }}
  set never {{ type ipv4_addr; flags interval; elements = {never}; }}
  set connections {{ type ipv4_addr; size 65535; flags dynamic; }}
  chain arrival {{
    type filter hook prerouting priority raw; policy accept;
    iifname {links} meta nfproto != ipv4 drop
    iifname {links} iifname . ip saddr != @instances drop
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
    ct state new add @connections {{ ip saddr ct count over {CONNECTIONS} }} {no}
    iifname @asking ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @never {no}
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
            gone = self.gone(),
        );
        for (link, guest) in guests {
            text += &self.admit(link, guest);
        }
        text
    }

    /// Without the table, whether it stands or not.
    pub(crate) fn gone(&self) -> String {
        gone(&self.table)
    }

    pub(crate) fn admit(&self, link: &str, guest: &InstanceRules) -> String {
        self.elements("add", link, guest)
    }

    pub(crate) fn dismiss(&self, link: &str, guest: &InstanceRules) -> String {
        self.elements("delete", link, guest)
    }

    /// Other places for a guest that may reach some only.
    pub(crate) fn change(
        &self,
        link: &str,
        old: &BTreeSet<(Ipv4Addr, u16)>,
        new: &BTreeSet<(Ipv4Addr, u16)>,
    ) -> String {
        let added = self.places("add", link, new.difference(old));
        self.places("delete", link, old.difference(new)) + &added
    }

    fn elements(&self, verb: &str, link: &str, guest: &InstanceRules) -> String {
        let table = &self.table;
        let mut text =
            format!("{verb} element inet {table} instances {{ \"{link}\" . {} }}\n", guest.address);
        let mut line = |set: &str| {
            // Writing into a text cannot fail.
            let _ = writeln!(text, "{verb} element inet {table} {set} {{ \"{link}\" }}");
        };
        match &guest.way {
            OutboundInterface::Open => {
                line("asking");
                line("open");
            }
            OutboundInterface::Only { places, asks } => {
                if *asks {
                    line("asking");
                }
                text += &self.places(verb, link, places.iter());
            }
        }
        text
    }

    fn places<'a>(
        &self,
        verb: &str,
        link: &str,
        places: impl Iterator<Item = &'a (Ipv4Addr, u16)>,
    ) -> String {
        let places: Vec<_> =
            places.map(|(address, port)| format!("\"{link}\" . {address} . {port}")).collect();
        match places.is_empty() {
            true => String::new(),
            false => format!("{verb} element inet {} allowed {{ {} }}\n", self.table, places.join(", ")),
        }
    }
}

/// Removes a table that may stand or not. To add it first is no error, and to delete it then is none either.
pub(crate) fn gone(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn braces(elements: &[impl ToString]) -> String {
    let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", elements.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> Fixed {
        Fixed {
            table: "try-it-now-node-1".to_owned(),
            links: "tinabcde".to_owned(),
            range: Ipv4Network::around("10.213.0.0".parse().unwrap(), 16),
            resolvers: vec!["9.9.9.9".parse().unwrap()],
        }
    }

    fn guest(way: OutboundInterface) -> InstanceRules {
        InstanceRules { address: "10.213.0.3".parse().unwrap(), way }
    }

    fn places(list: &[(&str, u16)]) -> BTreeSet<(Ipv4Addr, u16)> {
        list.iter().map(|(address, port)| (address.parse().unwrap(), *port)).collect()
    }

    #[test]
    fn the_rules_are_the_same_whoever_is_in() {
        let fixed = fixed();
        let guests = Guests::from([("tinabcde1".to_owned(), guest(OutboundInterface::Open))]);
        let (empty, one) = (fixed.whole(&Guests::new()), fixed.whole(&guests));
        assert_eq!(one.strip_prefix(&empty).unwrap(), fixed.admit("tinabcde1", &guests["tinabcde1"]));
        assert!(empty.starts_with("add table inet try-it-now-node-1\ndelete table inet try-it-now-node-1\n"));
        assert!(empty.contains("169.254.0.0/16") && empty.contains("th dport { 25, 465, 587 } reject"));
    }

    #[test]
    fn a_guest_is_dismissed_by_what_admitted_it() {
        let fixed = fixed();
        for way in [
            OutboundInterface::Open,
            OutboundInterface::Only {
                places: places(&[("198.51.100.1", 443), ("198.51.100.2", 80)]),
                asks: true,
            },
            OutboundInterface::Only { places: places(&[]), asks: false },
        ] {
            let guest = guest(way);
            let admitted = fixed.admit("tinabcde1", &guest);
            assert_eq!(fixed.dismiss("tinabcde1", &guest), admitted.replace("add element", "delete element"));
            assert!(admitted.contains("instances { \"tinabcde1\" . 10.213.0.3 }"));
        }
    }

    #[test]
    fn only_what_changed_of_the_places_is_told() {
        let (old, new) =
            (places(&[("198.51.100.1", 80), ("198.51.100.2", 80)]), places(&[("198.51.100.2", 80)]));
        let fixed = fixed();
        assert_eq!(
            fixed.change("tinabcde1", &old, &new),
            "delete element inet try-it-now-node-1 allowed { \"tinabcde1\" . 198.51.100.1 . 80 }\n"
        );
        assert_eq!(fixed.change("tinabcde1", &new, &new), "");
    }
}
