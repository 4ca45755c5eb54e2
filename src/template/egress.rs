//! Egress: what an instance may reach on the internet. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Most destinations of a list. Each destination is an element of a firewall set for each instance.
pub const MAX_DESTINATIONS: usize = 64;

/// Networks that no instance reaches, whatever its template allows: private, link-local, shared, multicast and reserved
/// ones. They include the addresses of the metadata services of clouds.
pub const BLOCKED_NETWORKS: [Ipv4Network; 12] = [
    Ipv4Network::of(0, 0, 0, 0, 8),
    Ipv4Network::of(10, 0, 0, 0, 8),
    Ipv4Network::of(100, 64, 0, 0, 10),
    Ipv4Network::of(127, 0, 0, 0, 8),
    Ipv4Network::of(168, 63, 129, 16, 32),
    Ipv4Network::of(169, 254, 0, 0, 16),
    Ipv4Network::of(172, 16, 0, 0, 12),
    Ipv4Network::of(192, 0, 0, 0, 24),
    Ipv4Network::of(192, 88, 99, 0, 24),
    Ipv4Network::of(192, 168, 0, 0, 16),
    Ipv4Network::of(198, 18, 0, 0, 15),
    Ipv4Network::of(224, 0, 0, 0, 3),
];

/// Ports of mail submission, which are closed to all instances.
pub const MAIL_PORTS: [u16; 3] = [25, 465, 587];

/// What the instances of a template may reach. Its JSON is part of the template's
/// [revision](super::Template::revision).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Nothing: the network namespace of an instance has no link to the host.
    #[default]
    Sealed,
    /// All public addresses, except on the ports of mail.
    Internet,
    /// Only these destinations. Never empty.
    Only(Vec<Destination>),
}

impl Egress {
    /// Returns whether instances reach nothing.
    pub fn is_sealed(&self) -> bool {
        *self == Self::Sealed
    }
}

/// A destination on a template's list, `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// The host.
    pub host: DestinationHost,
    /// The port, for TCP and UDP.
    pub port: u16,
}

/// The host of a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationHost {
    /// A public IPv4 address.
    Address(Ipv4Addr),
    /// A DNS name in lower case, which is looked up repeatedly.
    Name(String),
}

impl FromStr for Destination {
    type Err = &'static str;

    /// Reads `host:port`.
    ///
    /// # Errors
    /// The text is no public host and port, or the port is one of mail; the error says what to write.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "write a host, a colon and a port, such as \"api.example.com:443\"";
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return Err("write a name or an IPv4 address: instances have no IPv6");
        }
        let (host, port) = text.rsplit_once(':').ok_or(RULE)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or(RULE)?;
        if MAIL_PORTS.contains(&port) {
            return Err("leave out the ports of mail (25, 465, 587), which are always closed");
        }
        let host = match host.parse() {
            Ok(address) if is_public(address) => DestinationHost::Address(address),
            Ok(_) => return Err("write a public address: private and reserved ones are never reached"),
            Err(_) if is_name(host) => DestinationHost::Name(host.to_ascii_lowercase()),
            Err(_) => return Err(RULE),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            DestinationHost::Address(address) => write!(f, "{address}:{}", self.port),
            DestinationHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Returns whether a text is a DNS name: labels of letters, digits, dashes and underscores. The last label is no
/// number, because such a text is part of an address.
pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let is_valid = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        is_valid && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether an address is public, so that an instance may reach it.
pub fn is_public(address: Ipv4Addr) -> bool {
    !BLOCKED_NETWORKS.iter().any(|network| network.contains(address))
}

/// An IPv4 network: the addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ipv4Network(Ipv4Net);

impl Ipv4Network {
    /// A network in the code. Fails to compile where `prefix` is above 32.
    const fn of(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
    }

    /// Returns the network of `prefix` leading bits that contains `address`; a `prefix` above 32 counts as 32.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Self {
        Self(Ipv4Net::new_assert(address, prefix.min(32)).trunc())
    }

    /// Returns the first address of the network.
    pub fn base(&self) -> Ipv4Addr {
        self.0.network()
    }

    /// Returns the number of leading bits that its addresses share.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Returns whether an address is in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    /// Returns whether any address is in both networks.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// Returns the number of addresses in the network.
    pub fn address_count(&self) -> u64 {
        1 << (32 - self.0.prefix_len())
    }

    /// Returns the address at a position in the network, counted from 0. The position must be below
    /// [`address_count`](Self::address_count).
    pub fn address_at(&self, position: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.network().to_bits() | position)
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How this host connects instances to the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSettings {
    /// The addresses of the links between instances and this host, two for each instance. They are not visible outside
    /// this host.
    pub range: Ipv4Network,
    /// The DNS resolvers of instances; `None` means the public ones among this host's resolvers.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// How often the names of destinations are looked up and the firewall is checked.
    pub refresh_interval: Duration,
    /// Further hosts that no instance reaches, as names or addresses.
    pub forbidden_hosts: Vec<String>,
    /// Most packets that an instance sends in a second. One that was quiet may send twice as many at once.
    pub max_packets_per_second: u32,
    /// Most connections that an instance opens in a second. One that was quiet may open twice as many at once.
    pub max_connections_per_second: u32,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            range: Ipv4Network::of(10, 213, 0, 0, 16),
            resolvers: None,
            refresh_interval: Duration::from_secs(30),
            forbidden_hosts: Vec::new(),
            max_packets_per_second: 20_000,
            max_connections_per_second: 200,
        }
    }
}

impl EgressSettings {
    /// Returns the first of this host's routes that overlaps with the range, as network and link. `routes` is the text
    /// of `/proc/net/route`. The links of instances and the default route do not count.
    pub fn conflicting_route(&self, routes: &str) -> Option<(Ipv4Network, String)> {
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(|n| Ipv4Addr::from(n.to_ne_bytes()));
        routes.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (link, base, mask) = (*fields.first()?, number(fields.get(1)?)?, number(fields.get(7)?)?);
            let bits = mask.to_bits().leading_ones() as u8;
            let network = Ipv4Network::containing(base, bits);
            let conflicts = bits > 0 && !link.starts_with(LINK_PREFIX) && network.overlaps(&self.range);
            conflicts.then(|| (network, link.to_owned()))
        })
    }
}

/// The prefix of the names of all links between this host and instances.
pub const LINK_PREFIX: &str = "tin";

/// Returns the nameservers of a `resolv.conf` that instances may use too, which are the public IPv4 ones, in its order.
pub fn public_resolvers(text: &str) -> Vec<Ipv4Addr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|server| server.trim().parse().ok()).filter(|server| is_public(*server)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, &'static str> {
        text.parse::<Destination>().map(|destination| destination.to_string())
    }

    #[test]
    fn a_destination_is_a_public_host_and_a_port() {
        assert_eq!(read("API.Example.com:443").unwrap(), "api.example.com:443");
        assert_eq!(read("198.51.100.1:8080").unwrap(), "198.51.100.1:8080");
        for bad in
            ["", "a", "a:", ":1", "a:0", "a:+1", "a:65536", "a b:1", "-a:1", "a..b:1", "1.2.3:4", "a/b:1"]
        {
            assert!(read(bad).unwrap_err().starts_with("write a host"), "{bad}");
        }
        assert!(read("[2001:db8::1]:443").unwrap_err().contains("IPv6"));
        assert!(read("a:25").unwrap_err().contains("mail"));
        for private in
            ["10.0.0.1:80", "127.0.0.1:80", "169.254.169.254:80", "100.100.100.200:80", "255.255.255.255:1"]
        {
            assert!(read(private).unwrap_err().contains("public"), "{private}");
        }
    }

    #[test]
    fn a_network_contains_the_addresses_that_share_its_prefix() {
        let network = Ipv4Network::containing("10.213.7.9".parse().unwrap(), 16);
        assert_eq!((network.to_string().as_str(), network.address_count()), ("10.213.0.0/16", 65_536));
        assert_eq!(network.address_at(258).to_string(), "10.213.1.2");
        assert!(
            network.contains("10.213.255.255".parse().unwrap())
                && !network.contains("10.214.0.0".parse().unwrap())
        );
        assert!(
            network.overlaps(&Ipv4Network::of(10, 0, 0, 0, 8))
                && Ipv4Network::of(0, 0, 0, 0, 0).overlaps(&network)
        );
        assert!(!network.overlaps(&Ipv4Network::of(10, 212, 0, 0, 16)));
        assert!(is_public("9.9.9.9".parse().unwrap()) && !is_public("172.31.255.255".parse().unwrap()));
    }

    #[test]
    fn a_route_into_the_range_is_found_and_the_default_route_and_links_of_instances_are_not() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let line = |link: &str, base: [u8; 4], mask: [u8; 4]| {
            let hex = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
            format!("{link}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(base), hex(mask))
        };
        let free = head.to_owned()
            + &line("eth0", [0; 4], [0; 4])
            + &line("eth0", [192, 168, 1, 0], [255, 255, 255, 0])
            + &line("tinabcde1", [10, 213, 0, 3], [255; 4]);
        let settings = EgressSettings::default();
        assert_eq!(settings.conflicting_route(&free), None);
        let (network, link) =
            settings.conflicting_route(&(free + &line("vpn", [10, 0, 0, 0], [255, 0, 0, 0]))).unwrap();
        assert_eq!((network.to_string().as_str(), link.as_str()), ("10.0.0.0/8", "vpn"));
    }

    #[test]
    fn instances_get_only_the_public_resolvers_of_a_host() {
        let text = "# mine\nnameserver 127.0.0.53\nnameserver 9.9.9.9\n nameserver ::1\nsearch a\nnameserver 10.0.0.2\n";
        assert_eq!(public_resolvers(text), ["9.9.9.9".parse::<Ipv4Addr>().unwrap()]);
    }
}
