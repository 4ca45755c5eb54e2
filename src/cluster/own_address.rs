//! Where others reach this server when nobody said so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The address that others reach a listener at. One that listens on all of this host's addresses is reached at the one
/// that this host itself would send from; without any but its own, at that.
pub fn reached_at(listens: SocketAddr) -> SocketAddr {
    if !listens.ip().is_unspecified() {
        return listens;
    }
    // Addresses that nobody has: connecting sends nothing, it only looks for the way.
    let v4 = || sends_from((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = || sends_from((Ipv6Addr::UNSPECIFIED, 0).into(), (far, 9).into());
    let found = if listens.is_ipv4() { v4() } else { v4().or_else(v6) };
    SocketAddr::new(found.unwrap_or(Ipv4Addr::LOCALHOST.into()), listens.port())
}

fn sends_from(any: SocketAddr, to: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    let found = socket.local_addr().ok()?.ip();
    (!found.is_loopback() && !found.is_unspecified()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_on_one_address_is_reached_there() {
        for address in ["127.0.0.1:1", "[::1]:2", "192.0.2.7:3"] {
            let address = address.parse().unwrap();
            assert_eq!(reached_at(address), address);
        }
    }

    #[test]
    fn whoever_listens_on_all_addresses_is_reached_at_one_that_is_there() {
        for any in ["0.0.0.0:8080", "[::]:8080"] {
            let found = reached_at(any.parse().unwrap());
            assert_eq!(found.port(), 8080);
            assert!(!found.ip().is_unspecified());
            assert!(UdpSocket::bind((found.ip(), 0)).is_ok(), "{found} is this host's");
        }
    }
}
