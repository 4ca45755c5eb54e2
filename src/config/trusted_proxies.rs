//! Which peers are believed when they say for whom they ask.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network of IP addresses, or one address. An IPv4 network never holds an IPv6 address nor the other way
/// round, except that an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) is the IPv4 address that it maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpNet {
    /// The first address: bits beyond the prefix are zero. Never IPv4-mapped with a prefix of 96 or more.
    first: IpAddr,
    prefix: u8,
}

/// The text is neither an IP address nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an IP address or a network, such as 10.0.0.5, 10.0.0.0/8 or fd00::/8")]
pub struct MalformedIpNet;

/// The peers whose forwarding headers are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<IpNet>);

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        // Shifted to the top, so that a prefix counts from the same end in both families.
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl IpNet {
    /// The network of `prefix` leading bits around an address; `None` when the address has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let (value, width) = bits(address);
        if prefix > width {
            return None;
        }
        let masked = value & mask(prefix);
        let first = match address {
            IpAddr::V4(_) => IpAddr::V4(((masked >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(masked)),
        };
        Some(match (first.to_canonical(), prefix) {
            (IpAddr::V4(v4), 96..) => Self { first: v4.into(), prefix: prefix - 96 },
            _ => Self { first, prefix },
        })
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && bits(address).0 & mask(self.prefix) == bits(self.first).0
    }
}

impl TrustedProxies {
    /// Whether what this peer says of others is believed.
    pub fn contains(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(peer))
    }
}

impl FromStr for IpNet {
    type Err = MalformedIpNet;

    fn from_str(text: &str) -> Result<Self, MalformedIpNet> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| MalformedIpNet)?;
        let prefix = match prefix {
            None => bits(address).1,
            // `parse` alone would take a plus sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| MalformedIpNet)?
            }
            Some(_) => return Err(MalformedIpNet),
        };
        Self::new(address, prefix).ok_or(MalformedIpNet)
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == bits(self.first).1 {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}/{}", self.first, self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_its_own_addresses_and_no_others() {
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
    fn a_mapped_address_is_the_address_that_it_maps() {
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
    fn what_is_no_network_is_refused() {
        for text in
            ["", "localhost", "10.0.0/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "1.1.1.1/+8", "/8", "[::1]"]
        {
            assert_eq!(text.parse::<IpNet>(), Err(MalformedIpNet), "{text}");
        }
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    proptest! {
        #[test]
        fn a_network_that_is_written_reads_back(address in address(), prefix in 0_u8..=128) {
            if let Some(net) = IpNet::new(address, prefix) {
                prop_assert_eq!(net.to_string().parse::<IpNet>().unwrap(), net);
            }
        }

        #[test]
        fn a_network_holds_what_agrees_in_the_prefix_and_nothing_else(
            address in address(), prefix in 1_u8..=128, flip in 0_u8..128,
        ) {
            let width = bits(address).1;
            prop_assume!(prefix <= width && flip < width);
            let net = IpNet::new(address, prefix).unwrap();
            prop_assert!(net.contains(address));
            let flipped = bits(address).0 ^ (1 << (127 - flip));
            let other = match address {
                IpAddr::V4(_) => IpAddr::V4(((flipped >> 96) as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(flipped)),
            };
            prop_assert_eq!(net.contains(other), flip >= prefix);
        }

        #[test]
        fn the_mapped_form_of_an_address_is_treated_alike(
            network in any::<[u8; 4]>(), prefix in 0_u8..=32, address in any::<[u8; 4]>(),
        ) {
            let net = IpNet::new(network.into(), prefix).unwrap();
            let v4 = std::net::Ipv4Addr::from(address);
            prop_assert_eq!(net.contains(v4.into()), net.contains(v4.to_ipv6_mapped().into()));
            let mapped = std::net::Ipv4Addr::from(network).to_ipv6_mapped();
            prop_assert_eq!(IpNet::new(mapped.into(), prefix + 96).unwrap(), net);
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,40}|[0-9a-f:./]{0,30}") {
            let _ = text.parse::<IpNet>();
        }
    }
}
