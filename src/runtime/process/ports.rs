//! The ports that instances listen on.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::protocol::MissingResource;

/// The ports of one server for its instances. A port that was just released is the last to be reserved again.
#[derive(Debug)]
pub(super) struct PortPool {
    free: Mutex<FreePorts>,
    count: usize,
}

#[derive(Debug)]
struct FreePorts {
    /// Ports that the system uses for outgoing connections.
    outgoing: RangeInclusive<u16>,
    /// Ports outside of `outgoing`, which are preferred: no outgoing connection can occupy such a port between its
    /// reservation and the moment when the app listens.
    preferred: VecDeque<u16>,
    /// Ports inside of `outgoing`.
    fallback: VecDeque<u16>,
}

/// A port that is reserved until this is dropped.
#[derive(Debug)]
pub(super) struct ReservedPort {
    number: u16,
    pool: Arc<PortPool>,
    /// Socket bound to an abstract name that stands for the port. Such names belong to the network namespace, as ports
    /// do, and vanish with the process that bound them, however it ends. So servers that share a range agree on which
    /// ports are reserved even before an app listens.
    _reservation: UnixDatagram,
}

impl PortPool {
    /// Returns all ports of `range`, beginning at a random one: servers with the same range then rarely try the same
    /// port at the same time.
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self::with_outgoing(range, outgoing_range(), getrandom::u32().unwrap_or(0))
    }

    fn with_outgoing(range: RangeInclusive<u16>, outgoing: RangeInclusive<u16>, start: u32) -> Self {
        let (mut fallback, mut preferred): (VecDeque<_>, VecDeque<_>) =
            range.partition(|port| outgoing.contains(port));
        for ports in [&mut preferred, &mut fallback] {
            if !ports.is_empty() {
                ports.rotate_left(start as usize % ports.len());
            }
        }
        Self {
            count: preferred.len() + fallback.len(),
            free: Mutex::new(FreePorts { outgoing, preferred, fallback }),
        }
    }

    /// Reserves a port that no other program uses.
    ///
    /// # Errors
    /// No port is free, or the sockets that reserve one cannot be opened: the name of what the host lacks.
    pub(super) fn reserve(self: &Arc<Self>) -> Result<ReservedPort, &'static str> {
        let mut busy = Vec::new();
        let mut reserved = Err("free port in CONTAINER_PORT_RANGE");
        for _ in 0..self.count {
            let Some(number) = self.free.lock().pop() else { break };
            match bind_reservation(number) {
                Ok(reservation) => {
                    reserved = Ok(ReservedPort { number, pool: Arc::clone(self), _reservation: reservation });
                    break;
                }
                Err(error) => {
                    busy.push(number);
                    if let Some(resource) = MissingResource::of(&error) {
                        reserved = Err(resource.name());
                        break;
                    }
                }
            }
        }
        let mut free = self.free.lock();
        busy.into_iter().for_each(|number| free.push(number));
        reserved
    }
}

impl FreePorts {
    fn pop(&mut self) -> Option<u16> {
        self.preferred.pop_front().or_else(|| self.fallback.pop_front())
    }

    fn push(&mut self, port: u16) {
        if self.outgoing.contains(&port) {
            self.fallback.push_back(port);
        } else {
            self.preferred.push_back(port);
        }
    }
}

impl ReservedPort {
    /// Returns the address at which an app with this port listens.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

impl Drop for ReservedPort {
    fn drop(&mut self) {
        self.pool.free.lock().push(self.number);
    }
}

/// Binds the port's abstract name, and checks that no program that does not know these names uses the port.
fn bind_reservation(port: u16) -> io::Result<UnixDatagram> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("try-it-now-port-{port}"))?;
    let reservation = UnixDatagram::bind_addr(&name)?;
    // Bound but never listening, so no client can connect to it. With SO_REUSEADDR, which nearly every server sets, the
    // remains of closed connections do not count as use.
    let probe =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&probe, true)?;
    rustix::net::bind(&probe, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    probe_ipv6(port)?;
    Ok(reservation)
}

/// Checks that no other program uses the port at `::1`, where an app that listens there alone is reached.
fn probe_ipv6(port: u16) -> io::Result<()> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    // The kernel has no IPv6, or its loopback has no address.
    let Ok(probe) = socket else { return Ok(()) };
    sockopt::set_socket_reuseaddr(&probe, true)?;
    match rustix::net::bind(&probe, &SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)) {
        Err(Errno::ADDRNOTAVAIL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn outgoing_range() -> RangeInclusive<u16> {
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ends = text.split_ascii_whitespace().map(str::parse);
        Some(ends.next()?.ok()?..=ends.next()?.ok()?)
    };
    read().unwrap_or(32768..=60999)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four ports that were free a moment ago.
    fn four_ports() -> RangeInclusive<u16> {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let first = first.min(65_530);
        first..=first + 3
    }

    fn reserve_all(ports: &Arc<PortPool>) -> Vec<ReservedPort> {
        std::iter::from_fn(|| ports.reserve().ok()).collect()
    }

    #[test]
    fn two_servers_with_one_range_never_reserve_the_same_port() {
        let range = four_ports();
        let (one, other) = (Arc::new(PortPool::new(range.clone())), Arc::new(PortPool::new(range)));
        let first = one.reserve().ok();
        let mut all = reserve_all(&other);
        all.extend(reserve_all(&one));
        all.extend(first);
        let mut numbers: Vec<_> = all.iter().map(|p| p.number).collect();
        numbers.sort_unstable();
        let count = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }

    #[test]
    fn a_released_port_is_the_last_to_be_reserved_again() {
        let ports = PortPool::with_outgoing(10..=13, 12..=13, 0);
        let mut free = ports.free.lock();
        let all: Vec<u16> = std::iter::from_fn(|| free.pop()).collect();
        assert_eq!(all, [10, 11, 12, 13]);
        for port in [13, 11, 12, 10] {
            free.push(port);
        }
        let again: Vec<u16> = std::iter::from_fn(|| free.pop()).collect();
        assert_eq!(again, [11, 10, 13, 12], "in each group, the port released last");
    }

    #[test]
    fn ports_that_outgoing_connections_never_use_come_first() {
        let ports = PortPool::with_outgoing(10..=15, 12..=13, 1);
        let free = ports.free.lock();
        assert_eq!(free.preferred, [11, 14, 15, 10]);
        assert_eq!(free.fallback, [13, 12]);
    }

    #[test]
    fn a_port_on_which_another_program_listens_is_skipped() {
        let ipv6 = std::net::TcpListener::bind("[::1]:0").ok();
        for other_program in [std::net::TcpListener::bind("127.0.0.1:0").ok(), ipv6].into_iter().flatten() {
            let port = other_program.local_addr().unwrap().port();
            let ports = Arc::new(PortPool::new(port..=port));
            assert!(ports.reserve().is_err());
            assert!(ports.reserve().is_err(), "it is tried again each time");
        }
    }
}
