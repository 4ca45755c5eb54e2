//! Finds out where the processes of an instance listen for TCP connections.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in the kernel's tables.
const LISTENING: &str = "0A";

/// A socket that listens.
#[derive(Debug, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

/// Returns where any process listens in the network namespace of the first of these processes that still runs; `None`
/// if none runs.
pub(super) fn of_namespace(pids: &[i32]) -> Option<Vec<SocketAddr>> {
    pids.iter().find_map(|pid| tables_of(*pid)).map(sorted)
}

/// Returns where these processes listen.
pub(super) fn of_processes(pids: &[i32]) -> Option<Vec<SocketAddr>> {
    let sockets: HashSet<u64> = pids.iter().flat_map(|pid| sockets_of(*pid)).collect();
    let listeners = pids.iter().find_map(|pid| tables_of(*pid))?;
    Some(sorted(listeners.into_iter().filter(|listener| sockets.contains(&listener.inode)).collect()))
}

fn sorted(listeners: Vec<Listener>) -> Vec<SocketAddr> {
    let found: BTreeSet<_> =
        listeners.into_iter().map(|listener| (listener.address.port(), listener.address)).collect();
    found.into_iter().map(|(_, address)| address).collect()
}

/// Returns the listening sockets of a process's network namespace.
fn tables_of(pid: i32) -> Option<Vec<Listener>> {
    let read = |table| fs::read_to_string(format!("/proc/{pid}/net/{table}"));
    let mut found = parse(&read("tcp").ok()?);
    // A kernel without IPv6 has no such table.
    found.extend(read("tcp6").map(|text| parse(&text)).unwrap_or_default());
    Some(found)
}

/// Returns the numbers of the sockets that a process has open.
fn sockets_of(pid: i32) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let number = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(number).collect()
}

fn parse(table: &str) -> Vec<Listener> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let inode = fields.nth(5)?.parse().ok()?;
        let (address, port) = local.split_once(':')?;
        let address = SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?);
        (state == LISTENING).then_some(Listener { address, inode })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Reads an address in the kernel's form: words of this machine's byte order, in hexadecimal digits.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |digits: &str| Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(hex)?).into()),
        32 if hex.is_ascii() => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(&hex[index * 8..index * 8 + 8])?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_listeners_of_this_process_are_found_and_those_of_others_are_not() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").ok();
        let expected: Vec<SocketAddr> = [Some(&four), six.as_ref()]
            .into_iter()
            .flatten()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        let connected = std::net::TcpStream::connect(expected[0]).unwrap();
        let own = std::process::id() as i32;
        let found = of_processes(&[i32::MAX, own]).unwrap();
        assert!(expected.iter().all(|address| found.contains(address)), "{found:?}");
        assert!(!found.contains(&connected.local_addr().unwrap()));
        assert!(of_namespace(&[own]).unwrap().contains(&expected[0]));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let of_other = of_processes(&[other.id() as i32]);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(of_other, Some(Vec::new()));
        assert_eq!(of_namespace(&[i32::MAX]), None);
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        let header = "  sl  local_address rem_address   st\n";
        for line in ["", "0:", "0: zz:1 0:0 0A 0:0 0:0 0 0 0 1", "0: 0100007F:FFFFF 0:0 0A 0:0 0:0 0 0 0 1"] {
            assert_eq!(parse(&format!("{header}{line}\n")), []);
        }
    }
}
