//! What an instance may reach beyond itself. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most places of a list: each is an element of a set for each of its instances.
pub const MOST_DESTINATIONS: usize = 64;

/// Where no instance ever gets to, whatever its template says: networks that mean something else to each host, among
/// them those where clouds answer questions about their machines.
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

/// Where mail is handed in, which nobody's instance does.
pub const MAIL_PORTS: [u16; 3] = [25, 465, 587];

/// What a template's instances may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Nothing: there is no way out of their network.
    #[default]
    Sealed,
    /// All public addresses, but for mail.
    Internet,
    /// These only. Never empty.
    Only(Vec<Destination>),
}

impl Egress {
    /// Whether there is no way out.
    pub fn is_sealed(&self) -> bool {
        *self == Self::Sealed
    }
}

/// A place on a list, `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// Where.
    pub host: Host,
    /// The port there, of TCP and UDP.
    pub port: u16,
}

/// One end of the internet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// A public address.
    Address(Ipv4Addr),
    /// A DNS name, lower case, to be looked up again and again.
    Name(String),
}

impl FromStr for Destination {
    type Err = &'static str;

    /// Reads `host:port`. The error says what would be right.
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
            Ok(address) if is_public(address) => Host::Address(address),
            Ok(_) => return Err("write a public address: private and reserved ones are never reached"),
            Err(_) if is_name(host) => Host::Name(host.to_ascii_lowercase()),
            Err(_) => return Err(RULE),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Labels of letters, digits, dashes and underscores; the last is no number, or it would be half an address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let fine = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        fine && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether an address means the same everywhere, so that an instance may be let to it.
pub fn is_public(address: Ipv4Addr) -> bool {
    !BLOCKED_NETWORKS.iter().any(|network| network.has(address))
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Network {
    /// The first of them.
    base: Ipv4Addr,
    /// How many bits they share, at most 32.
    bits: u8,
}

impl Ipv4Network {
    const fn of(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { base: Ipv4Addr::new(a, b, c, d), bits }
    }

    /// The one of that size that an address is in; `bits` beyond 32 count as 32.
    pub fn around(address: Ipv4Addr, bits: u8) -> Self {
        let bits = bits.min(32);
        Self { base: Ipv4Addr::from_bits(address.to_bits() & mask(bits)), bits }
    }

    /// Whether an address is in it.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        Self::around(address, self.bits) == *self
    }

    /// Whether any address is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.has(other.base) || other.has(self.base)
    }

    /// Its addresses.
    pub fn size(&self) -> u64 {
        1 << (32 - self.bits)
    }

    /// The address at a place in it, counted from 0. The place must be below [`Network::size`].
    pub fn at(&self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | place)
    }
}

/// The network bits of an address.
fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// How this host lets instances out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSettings {
    /// The addresses that instances and this host's ends of their links are given, two for each. Nobody outside of
    /// this host sees them.
    pub range: Ipv4Network,
    /// Who instances ask for names; `None` means whom this host asks, as far as those are public.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// How often the names of allow lists are looked up, and the firewall at.
    pub refresh: Duration,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self { range: Ipv4Network::of(10, 213, 0, 0, 16), resolvers: None, refresh: Duration::from_secs(30) }
    }
}

impl EgressSettings {
    /// The first of this host's routes, as `/proc/net/route` lists them, that leads into the range and is none of an
    /// instance's. The default route leads everywhere and does not count.
    pub fn clash(&self, routes: &str) -> Option<(Ipv4Network, String)> {
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(|n| Ipv4Addr::from(n.to_ne_bytes()));
        routes.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (link, base, mask) = (*fields.first()?, number(fields.get(1)?)?, number(fields.get(7)?)?);
            let bits = mask.to_bits().leading_ones() as u8;
            let network = Ipv4Network::around(base, bits);
            let clashes = bits > 0 && !link.starts_with(LINK_PREFIX) && network.meets(&self.range);
            clashes.then(|| (network, link.to_owned()))
        })
    }
}

/// What the names of all this host's ends of instances' links begin with.
pub const LINK_PREFIX: &str = "tin";

/// The nameservers in a `resolv.conf` that instances may ask too, in its order.
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
    fn networks_know_what_is_in_them() {
        let network = Ipv4Network::around("10.213.7.9".parse().unwrap(), 16);
        assert_eq!((network.to_string().as_str(), network.size()), ("10.213.0.0/16", 65_536));
        assert_eq!(network.at(258).to_string(), "10.213.1.2");
        assert!(
            network.has("10.213.255.255".parse().unwrap()) && !network.has("10.214.0.0".parse().unwrap())
        );
        assert!(
            network.meets(&Ipv4Network::of(10, 0, 0, 0, 8)) && Ipv4Network::of(0, 0, 0, 0, 0).meets(&network)
        );
        assert!(!network.meets(&Ipv4Network::of(10, 212, 0, 0, 16)));
        assert!(is_public("9.9.9.9".parse().unwrap()) && !is_public("172.31.255.255".parse().unwrap()));
    }

    #[test]
    fn a_route_into_the_range_is_found_and_the_default_route_and_our_own_are_none() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let line = |link: &str, base: [u8; 4], mask: [u8; 4]| {
            let hex = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
            format!("{link}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(base), hex(mask))
        };
        let fine = head.to_owned()
            + &line("eth0", [0; 4], [0; 4])
            + &line("eth0", [192, 168, 1, 0], [255, 255, 255, 0])
            + &line("tinabcde1", [10, 213, 0, 3], [255; 4]);
        let outside = EgressSettings::default();
        assert_eq!(outside.clash(&fine), None);
        let (network, link) = outside.clash(&(fine + &line("vpn", [10, 0, 0, 0], [255, 0, 0, 0]))).unwrap();
        assert_eq!((network.to_string().as_str(), link.as_str()), ("10.0.0.0/8", "vpn"));
    }

    #[test]
    fn only_public_resolvers_of_a_host_are_for_instances() {
        let text = "# mine\nnameserver 127.0.0.53\nnameserver 9.9.9.9\n nameserver ::1\nsearch a\nnameserver 10.0.0.2\n";
        assert_eq!(public_resolvers(text), ["9.9.9.9".parse::<Ipv4Addr>().unwrap()]);
    }
}
