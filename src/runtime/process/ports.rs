//! The ports that instances listen on.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// The ports of one server. A port that was just given back is the last to be given again.
#[derive(Debug)]
pub(super) struct Ports {
    free: Mutex<Free>,
    count: usize,
}

#[derive(Debug)]
struct Free {
    /// What the system takes for outgoing connections.
    outgoing: RangeInclusive<u16>,
    /// Ports that the system never gives to outgoing connections: an app cannot lose such a port between now
    /// and the moment when it listens.
    quiet: VecDeque<u16>,
    /// The others.
    others: VecDeque<u16>,
}

/// A port that is ours as long as this lives.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    from: Arc<Ports>,
    /// Bound to a name that stands for the port. Names of this kind belong to the network namespace, as ports
    /// do, and end with the process that bound them, however it ends: so servers that share a range agree on who
    /// has which port even before an app listens.
    _claim: UnixDatagram,
}

impl Ports {
    /// All ports of `range`, in an order that starts anywhere: servers with the same range rarely try the same
    /// port at the same time.
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self::beside(range, outgoing_range(), getrandom::u32().unwrap_or(0))
    }

    fn beside(range: RangeInclusive<u16>, outgoing: RangeInclusive<u16>, start: u32) -> Self {
        let (mut others, mut quiet): (VecDeque<_>, VecDeque<_>) =
            range.partition(|port| outgoing.contains(port));
        for ports in [&mut quiet, &mut others] {
            if !ports.is_empty() {
                ports.rotate_left(start as usize % ports.len());
            }
        }
        Self { count: quiet.len() + others.len(), free: Mutex::new(Free { outgoing, quiet, others }) }
    }

    /// Takes a port that nobody uses, or `None` when there is none.
    pub(super) fn take(self: &Arc<Self>) -> Option<Port> {
        let mut busy = Vec::new();
        let mut taken = None;
        for _ in 0..self.count {
            let Some(number) = self.free.lock().pop() else { break };
            match claim(number) {
                Ok(claim) => {
                    taken = Some(Port { number, from: Arc::clone(self), _claim: claim });
                    break;
                }
                Err(_) => busy.push(number),
            }
        }
        let mut free = self.free.lock();
        busy.into_iter().for_each(|number| free.push(number));
        taken
    }
}

impl Free {
    fn pop(&mut self) -> Option<u16> {
        self.quiet.pop_front().or_else(|| self.others.pop_front())
    }

    fn push(&mut self, port: u16) {
        if self.outgoing.contains(&port) {
            self.others.push_back(port);
        } else {
            self.quiet.push_back(port);
        }
    }
}

impl Port {
    /// Where an app that has this port listens.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.from.free.lock().push(self.number);
    }
}

/// Takes the port's name, and makes sure that no program that knows nothing of such names uses the port.
fn claim(port: u16) -> io::Result<UnixDatagram> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("try-it-now-port-{port}"))?;
    let claim = UnixDatagram::bind_addr(&name)?;
    // Bound but never listening: nobody can connect to it by mistake. SO_REUSEADDR, as nearly every server sets
    // it, lets it pass over the remains of closed connections.
    let probe =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&probe, true)?;
    rustix::net::bind(&probe, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(claim)
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

    fn taken(ports: &Arc<Ports>) -> Vec<Port> {
        std::iter::from_fn(|| ports.take()).collect()
    }

    #[test]
    fn two_servers_with_one_range_never_hold_the_same_port() {
        let range = four_ports();
        let (one, other) = (Arc::new(Ports::new(range.clone())), Arc::new(Ports::new(range)));
        let first = one.take();
        let mut all = taken(&other);
        all.extend(taken(&one));
        all.extend(first);
        let mut numbers: Vec<_> = all.iter().map(|p| p.number).collect();
        numbers.sort_unstable();
        let count = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }

    #[test]
    fn a_port_that_was_given_back_is_the_last_to_be_given_again() {
        let ports = Ports::beside(10..=13, 12..=13, 0);
        let mut free = ports.free.lock();
        let all: Vec<u16> = std::iter::from_fn(|| free.pop()).collect();
        assert_eq!(all, [10, 11, 12, 13]);
        for port in [13, 11, 12, 10] {
            free.push(port);
        }
        let again: Vec<u16> = std::iter::from_fn(|| free.pop()).collect();
        assert_eq!(again, [11, 10, 13, 12], "of each kind, the one given back last");
    }

    #[test]
    fn ports_that_outgoing_connections_never_use_come_first() {
        let ports = Ports::beside(10..=15, 12..=13, 1);
        let free = ports.free.lock();
        assert_eq!(free.quiet, [11, 14, 15, 10]);
        assert_eq!(free.others, [13, 12]);
    }

    #[test]
    fn a_port_that_a_stranger_listens_on_is_skipped() {
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stranger.local_addr().unwrap().port();
        let ports = Arc::new(Ports::new(port..=port));
        assert!(ports.take().is_none());
        assert!(ports.take().is_none(), "it is asked for again each time");
    }
}
