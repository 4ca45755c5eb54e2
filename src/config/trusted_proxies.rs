//! The proxies whose forwarding headers are believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// A network of IP addresses, or one address. A network of one family contains no address of the other, except that an
/// IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) counts as the IPv4 address that it maps.
// Bits beyond the prefix are zero, and an IPv4-mapped network is stored as IPv4, so that equal networks are equal
// values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrustedNetwork(IpNet);

/// The text is neither an IP address nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an IP address or a network, such as 10.0.0.5, 10.0.0.0/8 or fd00::/8")]
pub struct MalformedNetwork;

/// The peers whose forwarding headers are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<TrustedNetwork>);

impl TrustedNetwork {
    /// Returns the network of `prefix` leading bits around an address; `None` when the address has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = IpNet::new(address, prefix).ok()?.trunc();
        Some(match (network.addr().to_canonical(), prefix) {
            (IpAddr::V4(mapped), 96..) => Self(IpNet::new(mapped.into(), prefix - 96).ok()?),
            _ => Self(network),
        })
    }

    /// Returns whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl TrustedProxies {
    /// Returns whether the forwarding headers of this peer are believed.
    pub fn contains(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(peer))
    }

    /// Returns whether the forwarding headers of programs on this host may be believed, at one of its loopback
    /// addresses at least.
    pub fn has_loopback(&self) -> bool {
        let loopback = IpNet::new(Ipv4Addr::LOCALHOST.into(), 8).expect("8 is a prefix of IPv4");
        let is_loopback = |TrustedNetwork(network): &TrustedNetwork| {
            network.contains(&IpAddr::from(Ipv6Addr::LOCALHOST))
                || network.contains(&loopback.network())
                || loopback.contains(&network.network())
        };
        self.0.iter().any(is_loopback)
    }
}

/// Writes the list as in the configuration, or `no proxy`.
impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no proxy");
        }
        for (n, network) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { ", " })?;
            network.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for TrustedNetwork {
    type Err = MalformedNetwork;

    fn from_str(text: &str) -> Result<Self, MalformedNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        // Not ipnet's parser, which reads 010.0.0.0 as 10.0.0.0.
        let address: IpAddr = address.parse().map_err(|_| MalformedNetwork)?;
        let prefix = match prefix {
            None => IpNet::from(address).max_prefix_len(),
            // `parse` alone accepts a plus sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| MalformedNetwork)?
            }
            Some(_) => return Err(MalformedNetwork),
        };
        Self::new(address, prefix).ok_or(MalformedNetwork)
    }
}

impl fmt::Display for TrustedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bits of an address, shifted to the top so that a prefix counts from the same end in both families, and how
    /// many there are.
    fn bits(address: IpAddr) -> (u128, u8) {
        match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        }
    }

    fn net(text: &str) -> TrustedNetwork {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_its_own_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.168.4.128/25", "192.168.4.200", "192.168.4.127"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::1", "::1", "::2"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            assert!(net(network).contains(ip(inside)), "{inside} in {network}");
            assert!(!net(network).contains(ip(outside)), "{outside} not in {network}");
        }
    }

    #[test]
    fn a_mapped_address_counts_as_the_address_that_it_maps() {
        assert!(net("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert!(!net("10.0.0.0/8").contains(ip("::ffff:11.1.2.3")));
        assert_eq!(net("::ffff:10.0.0.0/104"), net("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1"));
    }

    #[test]
    fn bits_beyond_the_prefix_do_not_count() {
        assert_eq!(net("10.1.2.3/8"), net("10.0.0.0/8"));
        assert_eq!(net("10.1.2.3/8").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn an_invalid_network_is_refused() {
        for text in [
            "",
            "localhost",
            "10.0.0/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "1.1.1.1/+8",
            "/8",
            "[::1]",
            "010.0.0.0/8",
        ] {
            assert_eq!(text.parse::<TrustedNetwork>(), Err(MalformedNetwork), "{text}");
        }
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn a_network_that_is_written_reads_back(address in address(), prefix in 0_u8..=128) {
            if let Some(net) = TrustedNetwork::new(address, prefix) {
                prop_assert_eq!(net.to_string().parse::<TrustedNetwork>().unwrap(), net);
            }
        }

        #[test]
        fn a_network_contains_exactly_the_addresses_with_its_prefix(
            address in address(), prefix in 1_u8..=128, flip in 0_u8..128,
        ) {
            let width = bits(address).1;
            prop_assume!(prefix <= width && flip < width);
            let net = TrustedNetwork::new(address, prefix).unwrap();
            prop_assert!(net.contains(address));
            let flipped = bits(address).0 ^ (1 << (127 - flip));
            let other = match address {
                IpAddr::V4(_) => IpAddr::V4(((flipped >> 96) as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(flipped)),
            };
            prop_assert_eq!(net.contains(other), flip >= prefix);
        }

        #[test]
        fn the_mapped_form_of_an_address_counts_as_the_address(
            network in any::<[u8; 4]>(), prefix in 0_u8..=32, address in any::<[u8; 4]>(),
        ) {
            let net = TrustedNetwork::new(network.into(), prefix).unwrap();
            let v4 = std::net::Ipv4Addr::from(address);
            prop_assert_eq!(net.contains(v4.into()), net.contains(v4.to_ipv6_mapped().into()));
            let mapped = std::net::Ipv4Addr::from(network).to_ipv6_mapped();
            prop_assert_eq!(TrustedNetwork::new(mapped.into(), prefix + 96).unwrap(), net);
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,40}|[0-9a-f:./]{0,30}") {
            let _ = text.parse::<TrustedNetwork>();
        }
    }
}
