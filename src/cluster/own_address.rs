//! The address that this node advertises to its peers when its configuration names none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Returns the address at which peers reach a listener bound to `listens`.
///
/// A listener on all addresses of this host is reached at the address from which this host sends to other networks; on
/// a host that has only loopback addresses, at loopback.
pub fn own_address(listens: SocketAddr) -> SocketAddr {
    if !listens.ip().is_unspecified() {
        return listens;
    }
    // Both are documentation addresses. Connecting a UDP socket sends nothing, it only selects the source address.
    let v4 = || source_address((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = || source_address((Ipv6Addr::UNSPECIFIED, 0).into(), (far, 9).into());
    let found = if listens.is_ipv4() { v4() } else { v4().or_else(v6) };
    SocketAddr::new(found.unwrap_or(Ipv4Addr::LOCALHOST.into()), listens.port())
}

fn source_address(any: SocketAddr, to: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    let found = socket.local_addr().ok()?.ip();
    (!found.is_loopback() && !found.is_unspecified()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_one_address_is_reached_at_that_address() {
        for address in ["127.0.0.1:1", "[::1]:2", "192.0.2.7:3"] {
            let address = address.parse().unwrap();
            assert_eq!(own_address(address), address);
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_at_an_address_of_this_host() {
        for any in ["0.0.0.0:8080", "[::]:8080"] {
            let found = own_address(any.parse().unwrap());
            assert_eq!(found.port(), 8080);
            assert!(!found.ip().is_unspecified());
            assert!(UdpSocket::bind((found.ip(), 0)).is_ok(), "{found} is this host's");
        }
    }
}
