//! The routes inside a network namespace with a link: a second wall, which does not depend on the firewall.
//!
//! Programs such as Docker, ufw and operators delete all tables of nftables. Until this server's table is restored,
//! only these routes hold. No process of an instance has the right to change them. They lead to the gateway only what
//! the firewall's table allows: by address, and by rules with ports in front of the table `main`.
//!
//! The kernel looks up the route without a port when it learns the path MTU of a connection, and notes that with the
//! route that it finds. So both lookups must end in the same route: the rules of a list lead to the routes in `main`.
//!
//! The kernel accepts no rule for port 65535. So if the firewall's table is missing, this port of an allowed address is
//! open.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};

use super::firewall_rules::AllowedDestinations;
use super::links;
use crate::runtime::blocking::on_own_thread;
use crate::template::egress::{BLOCKED_NETWORKS, Ipv4Network, MAIL_PORTS};

/// The table that the kernel asks after all others. Rules without a table of their own end in it.
const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// The table of the kernel with the addresses of the namespace.
const LOCAL_TABLE: u32 = 255;
/// The table of the name servers, which an instance may reach at the port of DNS only.
const RESOLVER_TABLE: u32 = 100;
/// Priorities of the rules that lead to tables, and of those that refuse ports; all are before `main`.
const OPEN_PRIORITY: u32 = 100;
const REFUSED_PRIORITY: u32 = 200;
/// The highest port that a rule may have.
const LAST_PORT: u16 = 65_534;
/// The port of DNS.
const DNS_PORT: u16 = 53;

/// A rule for the ports `first` to `last` of an address, or with `None` of all: look into `table`, or with `None` refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PortRule {
    to: Option<Ipv4Addr>,
    first: u16,
    last: u16,
    table: Option<u32>,
}

/// A route of a table: to the gateway, or to nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    table: u32,
    network: Ipv4Network,
    is_open: bool,
}

/// All rules and routes of a namespace, except those that the kernel makes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoutePlan {
    gateway: Ipv4Addr,
    rules: BTreeSet<PortRule>,
    routes: BTreeSet<Route>,
}

impl RoutePlan {
    /// Returns the routes of an instance that may reach `destinations` through `gateway`, but never a `forbidden`
    /// address. `resolvers` are the name servers of an instance that may reach all public addresses.
    pub(super) fn new(
        gateway: Ipv4Addr,
        destinations: &AllowedDestinations,
        resolvers: &[Ipv4Addr],
        forbidden: &BTreeSet<Ipv4Addr>,
    ) -> Self {
        let mut plan = Self { gateway, rules: BTreeSet::new(), routes: BTreeSet::new() };
        // The gateway forwards, and is no destination: all of this host's services would answer there.
        plan.add(MAIN_TABLE, host(gateway), false);
        match destinations {
            AllowedDestinations::AnyPublic => {
                for resolver in resolvers {
                    plan.open_port(*resolver, DNS_PORT, RESOLVER_TABLE);
                }
                for port in [DNS_PORT].into_iter().chain(MAIL_PORTS) {
                    plan.rules.insert(PortRule { to: None, first: port, last: port, table: None });
                }
                let forbidden = forbidden.iter().copied().map(host);
                for network in BLOCKED_NETWORKS.into_iter().chain(forbidden) {
                    plan.add(MAIN_TABLE, network, false);
                }
                plan.add(MAIN_TABLE, Ipv4Network::containing(Ipv4Addr::UNSPECIFIED, 0), true);
            }
            AllowedDestinations::Only(destinations) => {
                for (address, port) in destinations.iter().filter(|(to, _)| !forbidden.contains(to)) {
                    plan.open_port(*address, *port, MAIN_TABLE);
                }
                plan.rules.insert(PortRule { to: None, first: 1, last: LAST_PORT, table: None });
            }
        }
        plan
    }

    fn open_port(&mut self, address: Ipv4Addr, port: u16, table: u32) {
        self.add(table, host(address), true);
        if port <= LAST_PORT {
            let (to, table) = (Some(address), Some(table));
            self.rules.insert(PortRule { to, first: port, last: port, table });
        }
    }

    fn add(&mut self, table: u32, network: Ipv4Network, is_open: bool) {
        self.routes.insert(Route { table, network, is_open });
    }

    /// Brings the routes of a namespace to this plan, whatever they were before.
    ///
    /// # Errors
    /// The kernel refuses. Then some routes may be missing.
    pub(super) async fn apply(&self, namespace: Arc<File>) -> io::Result<()> {
        let plan = self.clone();
        on_own_thread("routes of an instance", move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
            links::accept_all_senders()?;
            let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            reactor.block_on(links::netlink(|handle| async move { plan.reconcile(&handle).await }))
        })
        .await
    }

    /// Closes before it opens, so that nothing is open meanwhile that neither the old nor the new routes allow.
    async fn reconcile(&self, handle: &Handle) -> Result<(), Error> {
        let link = links::find_inner_end(handle).await?;
        let (rules, routes) = (present_rules(handle).await?, present_routes(handle).await?);
        let (missing, surplus): (Vec<_>, Vec<_>) =
            (self.routes.difference(&routes).collect(), routes.difference(&self.routes).collect());
        for route in missing.iter().filter(|route| !route.is_open) {
            handle.route().add(self.route_message(route, link)).execute().await?;
        }
        for rule in self.rules.difference(&rules).filter(|rule| rule.table.is_none()) {
            add_rule(handle, *rule).await?;
        }
        for rule in rules.difference(&self.rules).filter(|rule| rule.table.is_some()) {
            handle.rule().del(rule_message(*rule)).execute().await?;
        }
        for route in surplus.iter().filter(|route| route.is_open) {
            handle.route().del(self.route_message(route, link)).execute().await?;
        }
        for route in missing.iter().filter(|route| route.is_open) {
            handle.route().add(self.route_message(route, link)).execute().await?;
        }
        for rule in self.rules.difference(&rules).filter(|rule| rule.table.is_some()) {
            add_rule(handle, *rule).await?;
        }
        for rule in rules.difference(&self.rules).filter(|rule| rule.table.is_none()) {
            handle.rule().del(rule_message(*rule)).execute().await?;
        }
        for route in surplus.iter().filter(|route| !route.is_open) {
            handle.route().del(self.route_message(route, link)).execute().await?;
        }
        Ok(())
    }

    fn route_message(&self, route: &Route, link: u32) -> RouteMessage {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new().table_id(route.table);
        let builder = match route.network.prefix() {
            0 => builder,
            prefix => builder.destination_prefix(route.network.base(), prefix),
        };
        match route.is_open {
            // `onlink`: the gateway itself has no route.
            true => builder.gateway(self.gateway).output_interface(link).onlink().build(),
            false => builder.kind(RouteType::Unreachable).build(),
        }
    }
}

fn host(address: Ipv4Addr) -> Ipv4Network {
    Ipv4Network::containing(address, 32)
}

fn rule_message(rule: PortRule) -> RuleMessage {
    let PortRule { to, first, last, table } = rule;
    let priority = if table.is_some() { OPEN_PRIORITY } else { REFUSED_PRIORITY };
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = if table.is_some() { RuleAction::ToTable } else { RuleAction::Unreachable };
    message.attributes.push(RuleAttribute::Priority(priority));
    message.attributes.push(RuleAttribute::DestinationPortRange(RulePortRange { start: first, end: last }));
    message.attributes.extend(table.map(RuleAttribute::Table));
    if let Some(address) = to {
        message.header.dst_len = 32;
        message.attributes.push(RuleAttribute::Destination(address.into()));
    }
    message
}

async fn add_rule(handle: &Handle, rule: PortRule) -> Result<(), Error> {
    let mut request = handle.rule().add().v4();
    *request.message_mut() = rule_message(rule);
    request.execute().await
}

async fn present_rules(handle: &Handle) -> Result<BTreeSet<PortRule>, Error> {
    let messages: Vec<RuleMessage> = handle.rule().get(IpVersion::V4).execute().try_collect().await?;
    let rules = messages.into_iter().filter_map(|message| {
        let (mut ports, mut to) = (None, None);
        let mut table = u32::from(message.header.table);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::DestinationPortRange(range) => ports = Some((range.start, range.end)),
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::Destination(IpAddr::V4(address)) => to = Some(*address),
                _ => {}
            }
        }
        let table = (message.header.action == RuleAction::ToTable).then_some(table);
        // The kernel's own rules have no ports.
        ports.map(|(first, last)| PortRule { to, first, last, table })
    });
    Ok(rules.collect())
}

async fn present_routes(handle: &Handle) -> Result<BTreeSet<Route>, Error> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let messages: Vec<RouteMessage> = handle.route().get(all).execute().try_collect().await?;
    let routes = messages.into_iter().filter_map(|message| {
        let (mut table, mut base) = (u32::from(message.header.table), Ipv4Addr::UNSPECIFIED);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(RouteAddress::Inet(address)) => base = *address,
                _ => {}
            }
        }
        let is_own = table != LOCAL_TABLE && message.header.protocol != RouteProtocol::Kernel;
        let network = Ipv4Network::containing(base, message.header.destination_prefix_length);
        is_own.then(|| Route { table, network, is_open: message.header.kind == RouteType::Unicast })
    });
    Ok(routes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    /// Returns where a packet goes by a plan: whether to the gateway.
    fn is_open(plan: &RoutePlan, to: &str, port: u16) -> bool {
        let lookup = |table: u32| {
            let matching = plan
                .routes
                .iter()
                .filter(|route| route.table == table && route.network.contains(address(to)));
            matching.max_by_key(|route| route.network.prefix()).map(|route| route.is_open)
        };
        let mut rules: Vec<&PortRule> =
            plan.rules.iter().filter(|rule| (rule.first..=rule.last).contains(&port)).collect();
        rules.retain(|rule| rule.to.is_none_or(|address_of_rule| address_of_rule == address(to)));
        rules.sort_by_key(|rule| rule.table.is_none());
        let by_rules = rules.iter().find_map(|rule| rule.table.map_or(Some(false), lookup));
        by_rules.or_else(|| lookup(MAIN_TABLE)).unwrap_or(false)
    }

    #[test]
    fn open_egress_has_routes_to_public_addresses_only_and_dns_at_the_resolvers_only() {
        let forbidden = BTreeSet::from([address("198.51.100.9")]);
        let resolvers = [address("9.9.9.9"), address("10.0.0.53")];
        let plan =
            RoutePlan::new(address("10.213.0.2"), &AllowedDestinations::AnyPublic, &resolvers, &forbidden);
        for (to, port) in
            [("198.51.100.1", 443), ("198.51.100.1", 65_535), ("9.9.9.9", 53), ("10.0.0.53", 53)]
        {
            assert!(is_open(&plan, to, port), "{to}:{port}");
        }
        for (to, port) in [
            ("198.51.100.9", 443),
            ("198.51.100.1", 53),
            ("198.51.100.1", 25),
            ("198.51.100.1", 587),
            ("10.213.0.2", 80),
            ("10.213.0.4", 80),
            ("10.0.0.53", 54),
            ("169.254.169.254", 80),
            ("100.64.0.1", 80),
            ("224.0.0.1", 80),
        ] {
            assert!(!is_open(&plan, to, port), "{to}:{port}");
        }
    }

    #[test]
    fn a_list_has_routes_to_its_ports_only() {
        let listed = [("198.51.100.1", 443), ("198.51.100.2", 80), ("198.51.100.9", 80)];
        let listed = listed.map(|(to, port)| (address(to), port)).into_iter().collect();
        let forbidden = BTreeSet::from([address("198.51.100.9")]);
        let plan = RoutePlan::new(
            address("10.213.0.2"),
            &AllowedDestinations::Only(listed),
            &[address("9.9.9.9")],
            &forbidden,
        );
        assert!(is_open(&plan, "198.51.100.1", 443) && is_open(&plan, "198.51.100.2", 80));
        for (to, port) in [
            ("198.51.100.1", 80),
            ("198.51.100.2", 443),
            ("198.51.100.9", 80),
            ("198.51.100.3", 80),
            ("9.9.9.9", 53),
            ("10.213.0.2", 443),
        ] {
            assert!(!is_open(&plan, to, port), "{to}:{port}");
        }
    }
}
